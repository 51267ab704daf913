"""Self-test at load: a session must give the maps that the model is known to give.

`golden.npz` beside a model file holds one real tile and its maps from the verified file on the
default CPU provider (`python -m export golden`). Where there is none, a drawn tile is run on that
provider at load and compared. It tells a provider that computes nonsense, and a precision that this
machine does not do as the one where its accuracy was measured, before any caller sees it.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import ModelContractError
from service.inference.precision import Precision

GOLDEN_FILE: Final = "golden.npz"

_LARGEST_SIDE_PX: Final = 256
_WRITTEN_SIDE_PX: Final = 192  # some dozens of nuclei, in a file of 100 KB

# Mean difference in steps of 1/255, and Dice of the foregrounds. On the embedded model's golden
# tile, float32 of two providers differed by 0.0001 and Dice 1; bf16 and int8 by 1.2 to 1.4 and
# Dice 0.99. TF32 lies between. What is broken is far outside.
_TOLERANCES: Final[dict[Precision, tuple[float, float]]] = {
    "fp32": (0.5, 0.99),
    "fp16": (1.0, 0.98),
    "bf16": (5.0, 0.95),
    "int8": (5.0, 0.95),
}

Run = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Golden:
    """A tile and the maps that it must become.

    Attributes:
        tile: RGB, shape (1, H, W, 3), uint8.
        maps: Shape (1, H, W, C), uint8.
        source: `file`: from `golden.npz`. `reference`: made at load on the default CPU provider.
    """

    tile: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    source: Literal["file", "reference"]


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How near a session came.

    Attributes:
        source: Where the expected maps came from.
        mean_difference: Mean absolute difference of all map values, in steps of 1/255.
        max_difference: Largest of them.
        dice: Dice of the foregrounds at the model's calibrated threshold; 1 where both are empty.
    """

    source: Literal["file", "reference"]
    mean_difference: float
    max_difference: int
    dice: float


def canary_tile(side_px: int) -> NDArray[np.uint8]:
    """Draw stained discs on a pale ground: (side, side, 3) uint8 RGB."""
    pixels = np.full((side_px, side_px, 3), (236, 214, 228), np.uint8)
    step_px = max(16, side_px // 8)
    for y in range(step_px // 2, side_px, step_px):
        for x in range(step_px // 2, side_px, step_px):
            cv2.circle(pixels, (x, y), step_px // 4, (84, 52, 120), thickness=cv2.FILLED)
    return pixels


def make_golden(run: Run, divisor: int) -> Golden:
    """Run a drawn tile on the default CPU provider.

    Args:
        run: Of a session on that provider.
        divisor: The contract's.
    """
    side_px = max(divisor, _LARGEST_SIDE_PX // divisor * divisor)
    tile = canary_tile(side_px)[None]
    return Golden(tile, run(tile), "reference")


def read_golden(folder: Path, divisor: int, channels: int) -> Golden | None:
    """Read the golden tile of a model version.

    Args:
        folder: Of the version.
        divisor: The contract's.
        channels: Number of maps.

    Returns:
        None where there is no `golden.npz`.

    Raises:
        ModelContractError: It is there and is not what it must be.
    """
    path = folder / GOLDEN_FILE
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            tile, maps = arrays["tile"], arrays["maps"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelContractError(f"{GOLDEN_FILE} cannot be read: {type(error).__name__}") from error
    fits = (
        tile.dtype == maps.dtype == np.uint8
        and tile.ndim == 3
        and tile.shape[2] == 3
        and maps.shape == (*tile.shape[:2], channels)
        and not tile.shape[0] % divisor
        and not tile.shape[1] % divisor
    )
    if not fits:
        raise ModelContractError(
            f"{GOLDEN_FILE} holds {tile.shape} and {maps.shape}, not a tile of uint8 RGB with "
            f"sides that {divisor} divides and its {channels} maps"
        )
    return Golden(tile[None], maps[None], "file")


def write_golden(folder: Path, pixels: NDArray[np.uint8], run: Run, divisor: int) -> Path:
    """Cut a golden tile out of the middle of an image and write it with its maps.

    Args:
        folder: Of the model version.
        pixels: A real image, RGB, shape (H, W, 3), uint8.
        run: Of the reference file on the default CPU provider.
        divisor: The contract's.

    Returns:
        The file.

    Raises:
        ModelContractError: The image is smaller than the divisor.
    """
    path = folder / GOLDEN_FILE
    sides = [
        min(side, max(divisor, _WRITTEN_SIDE_PX)) // divisor * divisor for side in pixels.shape[:2]
    ]
    if 0 in sides:
        raise ModelContractError(f"an image of {pixels.shape[:2]} px holds no tile of {divisor} px")
    top, left = ((whole - side) // 2 for whole, side in zip(pixels.shape, sides, strict=False))
    tile = np.ascontiguousarray(pixels[top : top + sides[0], left : left + sides[1]])
    np.savez_compressed(path, tile=tile, maps=run(tile[None])[0])
    return path


def check_golden(
    run: Run, golden: Golden, precision: Precision, probability_threshold: float
) -> GoldenResult:
    """Compare what a session makes of the golden tile with what it must be.

    Args:
        run: Of the session.
        golden: The tile and its maps.
        precision: What the session computes in; sets the tolerance.
        probability_threshold: The model's calibrated one, for the foreground.

    Returns:
        The differences.

    Raises:
        ModelContractError: They are too large.
    """
    maps = run(golden.tile)
    difference = cv2.absdiff(maps, golden.maps)
    level = probability_threshold * 255
    found, expected = maps[..., 0] >= level, golden.maps[..., 0] >= level
    pixels = int(found.sum() + expected.sum())
    result = GoldenResult(
        source=golden.source,
        mean_difference=round(float(difference.mean()), 4),
        max_difference=int(difference.max()),
        dice=round(2 * int((found & expected).sum()) / pixels, 4) if pixels else 1.0,
    )
    most_difference, least_dice = _TOLERANCES[precision]
    if result.mean_difference > most_difference or result.dice < least_dice:
        raise ModelContractError(
            f"the self-test fails: in {precision} the maps of the golden tile differ by "
            f"{result.mean_difference} of 255 on average (at most {most_difference}) and the "
            f"foregrounds agree to Dice {result.dice} (at least {least_dice})"
        )
    return result
