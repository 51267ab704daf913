"""The gates that a model file passes before it is written: it equals Keras, and it is not blank.

Each check raises `ExportRefusedError` with what was found; none of them writes anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from export.errors import ExportRefusedError
from service.inference.session import ModelSession
from training.matching import PixelCounts

if TYPE_CHECKING:
    import keras

MAX_DIFFERENCE: Final = 1
"""Steps of 1/255 by which a pixel may differ: the two runtimes may round a half apart."""

MAX_DIFFERING_SHARE: Final = 0.01
"""Share of pixels that may differ at all. The runtimes agree to about 1e-6 of probability, so one
pixel in thousands lies that near to a rounding edge; a graph shifted over a smooth map could hide
below one step, but not on so few pixels."""

TILE_SIZES: Final = ((256, 256), (320, 224), (96, 480), (64, 64))
"""Height and width in pixels of the tiles compared, cut from the images in turn."""

BATCH: Final = 4
"""Tiles run together and one by one, which must not matter."""

LEAST_MAP_DEVIATION: Final = 2.0
"""Least standard deviation of the nucleus map over all images, in steps of 1/255."""

FOREGROUND_BOUNDS: Final = (0.5, 2.0)
"""Predicted foreground divided by the annotated one."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two runtimes agree.

    Attributes:
        max_difference: Largest difference of any pixel, in steps of 1/255.
        differing_share: Share of pixels that differ at all, 0..1.
        tiles: Tiles compared.
        against: What the file was compared with, with its version.
    """

    max_difference: int
    differing_share: float
    tiles: int
    against: str


def keras_maps(model: "keras.Model", tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Run the trained model, and quantise its maps as the contract says.

    Args:
        model: From RGB 0..255 to maps in 0..1.
        tiles: (N, H, W, 3), uint8.

    Returns:
        (N, H, W, C), uint8, 0..255 for 0..1.
    """
    import keras  # noqa: PLC0415  the checks of a file alone must not load TensorFlow

    output = model(tiles.astype(np.float32), training=False)
    maps = np.asarray(keras.ops.convert_to_numpy(output), dtype=np.float32)
    steps: NDArray[np.uint8] = np.rint(maps.clip(0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
    return steps


def check_parity(
    model: "keras.Model", session: ModelSession, images: Sequence[NDArray[np.uint8]]
) -> Parity:
    """Compare a file with the model it was made of, pixel by pixel.

    Tiles of several sizes are cut from real images; on one of them an object is drawn off centre,
    into each corner in turn, so that a shift cannot hide in a symmetric picture; and a batch is
    compared with its tiles run one by one.

    Args:
        model: The trained model.
        session: The file, as the service loads it.
        images: Real images, (H, W, 3), uint8; the more differ, the better.

    Returns:
        What was found, within the tolerance.

    Raises:
        ExportRefusedError: There is no image, or the difference exceeds `MAX_DIFFERENCE` on any
            pixel or appears on more than `MAX_DIFFERING_SHARE` of them.
    """
    if not images:
        raise ExportRefusedError("parity needs real images, and there is none")
    import keras  # noqa: PLC0415  see keras_maps

    stacks = _parity_tiles(images, session.contract.input.divisor)
    largest, differing, compared = 0, 0, 0
    for tiles in stacks:
        expected, found = keras_maps(model, tiles), session.run(tiles)
        if expected.shape != found.shape:
            raise ExportRefusedError(f"Keras gives {expected.shape}, the file {found.shape}")
        difference = cv2.absdiff(expected, found)
        largest = max(largest, int(difference.max()))
        differing += int(np.count_nonzero(difference))
        compared += difference.size
        if largest > MAX_DIFFERENCE:
            raise ExportRefusedError(
                f"the file differs from Keras by {largest} of 255 on a tile of "
                f"{tiles.shape[1]}x{tiles.shape[2]} px ({_describe_shift(expected, found)})"
            )
    share = differing / compared
    if share > MAX_DIFFERING_SHARE:
        raise ExportRefusedError(
            f"the file differs from Keras on {share:.1%} of the pixels, at most "
            f"{MAX_DIFFERING_SHARE:.0%} may lie on a rounding edge"
        )
    _check_batches(session, stacks)
    return Parity(
        max_difference=largest,
        differing_share=share,
        tiles=sum(len(tiles) for tiles in stacks),
        against=f"keras {keras.version()} ({keras.backend.backend()} backend)",
    )


def check_not_blank(
    maps: Sequence[NDArray[np.uint8]], pixels: Sequence[PixelCounts], stems: Sequence[str]
) -> None:
    """Refuse a model that answers the same everywhere, or far too much or too little.

    Args:
        maps: Maps of the validation images, each (H, W, C), uint8.
        pixels: Predicted against annotated foreground of the same images, at the thresholds
            that will be served.
        stems: Names of the images.

    Raises:
        ExportRefusedError: The nucleus map hardly varies; the predicted foreground is not within
            `FOREGROUND_BOUNDS` of the annotated one; or an image with nuclei comes out empty.
    """
    values = np.concatenate([image_maps[..., 0].ravel() for image_maps in maps])
    deviation = float(values.std())
    if deviation < LEAST_MAP_DEVIATION:
        raise ExportRefusedError(
            f"the model is constant: its nucleus map varies by {deviation:.2f} of 255 "
            f"about {values.mean():.1f} over {len(maps)} images"
        )
    pooled = sum(pixels[1:], start=pixels[0])
    if pooled.truth_fraction == 0:
        raise ExportRefusedError("the validation images hold no annotated nucleus")
    ratio = pooled.predicted_fraction / pooled.truth_fraction
    low, high = FOREGROUND_BOUNDS
    if not low <= ratio <= high:
        raise ExportRefusedError(
            f"predicted foreground is {ratio:.2f} times the annotated one "
            f"({pooled.predicted_fraction:.1%} against {pooled.truth_fraction:.1%}); "
            f"allowed is {low} to {high}"
        )
    blank = [
        stem
        for stem, counts in zip(stems, pixels, strict=True)
        if counts.predicted_fraction == 0 and counts.truth_fraction > 0
    ]
    if blank:
        raise ExportRefusedError(f"no nucleus is found on {', '.join(blank)}")


def _parity_tiles(images: Sequence[NDArray[np.uint8]], divisor: int) -> list[NDArray[np.uint8]]:
    """Stacks (n, H, W, 3) of one size each: one tile an image, and an object in every corner."""
    stacks = []
    for number, (height_px, width_px) in enumerate(TILE_SIZES):
        chosen = images[number :: len(TILE_SIZES)] or images[:1]
        tiles = [_cut(image, height_px, width_px, divisor) for image in chosen[:BATCH]]
        # Images smaller than the size give smaller tiles, which cannot be stacked.
        same = [tile for tile in tiles if tile.shape == tiles[0].shape]
        stacks.append(np.stack(same))
    corner = stacks[-1][0]
    stacks.append(
        np.stack([_draw_object(corner, row, column) for row in (0, 1) for column in (0, 1)])
    )
    return stacks


def _cut(
    image: NDArray[np.uint8], height_px: int, width_px: int, divisor: int
) -> NDArray[np.uint8]:
    """The middle of an image, at most that large and in multiples of the divisor."""
    height_px = min(height_px, image.shape[0]) // divisor * divisor
    width_px = min(width_px, image.shape[1]) // divisor * divisor
    if not height_px or not width_px:
        raise ExportRefusedError(
            f"an image of {image.shape[0]}x{image.shape[1]} px is smaller than a multiple of "
            f"{divisor} px"
        )
    top, left = (image.shape[0] - height_px) // 2, (image.shape[1] - width_px) // 2
    return np.ascontiguousarray(image[top : top + height_px, left : left + width_px])


def _draw_object(tile: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """A haematoxylin-blue disc near one corner of a tile, everything else left pale."""
    height_px, width_px = tile.shape[:2]
    drawn = np.full_like(tile, 235)
    centre = (width_px // 4 + column * width_px // 2, height_px // 4 + row * height_px // 2)
    radius_px = max(3, min(height_px, width_px) // 9)
    cv2.circle(drawn, centre, radius_px, (92, 60, 140), thickness=-1)
    return drawn


def _check_batches(session: ModelSession, stacks: Sequence[NDArray[np.uint8]]) -> None:
    for tiles in stacks:
        together = session.run(np.concatenate([tiles] * BATCH)[:BATCH])
        alone = np.concatenate(
            [session.run(tiles[number : number + 1]) for number in range(len(tiles))]
        )
        difference = int(cv2.absdiff(together[: len(tiles)], alone).max())
        if difference > MAX_DIFFERENCE:
            raise ExportRefusedError(
                f"a tile in a batch of {BATCH} differs from itself alone by {difference} of 255"
            )


def _describe_shift(expected: NDArray[np.uint8], found: NDArray[np.uint8]) -> str:
    """Say whether one map is the other one moved, which is what a wrong resize does."""
    (right_px, down_px), response = cv2.phaseCorrelate(
        expected[0, ..., 0].astype(np.float64), found[0, ..., 0].astype(np.float64)
    )
    if response > 0.3 and max(abs(right_px), abs(down_px)) >= 0.5:
        return f"it looks shifted by {right_px:+.1f} px right and {down_px:+.1f} px down"
    return "not a plain shift"
