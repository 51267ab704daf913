"""Averages over turned and mirrored copies, on maps where every orientation differs."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.segmentation.augmentation import COPIES, TestTimeAugmentation, run_augmented

Array = NDArray[np.uint8]


@pytest.fixture(scope="module")
def tiles() -> Array:
    """Noise: no copy of a tile equals another. Sides differ, so a forgotten turn back shows."""
    return np.random.default_rng(5).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)


def slanted(tiles: Array) -> Array:
    """A network with a strong sense of up and left: shifted, and brighter towards the corner."""
    height, width = tiles.shape[1:3]
    ramp = np.add.outer(np.arange(height), 2 * np.arange(width))[None, :, :, None]
    shifted = np.roll(tiles[..., :2].astype(np.int64), (1, 3), axis=(1, 2))
    return ((shifted + ramp) % 256).astype(np.uint8)


def pointwise(tiles: Array) -> Array:
    """A network that looks at one pixel at a time."""
    return 255 - tiles[..., :2]


TURNS: dict[str, Callable[[Array], Array]] = {
    "mirrored": lambda array: array[:, :, ::-1],
    "upside down": lambda array: array[:, ::-1],
    "half a turn": lambda array: np.rot90(array, 2, axes=(1, 2)),
    "quarter turn": lambda array: np.rot90(array, 1, axes=(1, 2)),
    "three quarters": lambda array: np.rot90(array, 3, axes=(1, 2)),
    "transposed": lambda array: array.swapaxes(1, 2),
}


@pytest.mark.parametrize("augmentation", ["none", "flips4", "dihedral8"])
def test_every_copy_is_brought_back(tiles: Array, augmentation: TestTimeAugmentation) -> None:
    """Where orientation does not matter, the mean of all copies is the single run."""
    found = run_augmented(pointwise, tiles, augmentation)
    assert np.array_equal(found, pointwise(tiles))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("augmentation", "forgets"),
    [
        ("none", set()),
        ("flips4", {"mirrored", "upside down", "half a turn"}),
        ("dihedral8", set(TURNS)),
    ],
)
def test_the_mean_turns_with_the_image(
    tiles: Array, augmentation: TestTimeAugmentation, forgets: set[str]
) -> None:
    upright = run_augmented(slanted, tiles, augmentation)
    equal = {
        name
        for name, turn in TURNS.items()
        if np.array_equal(
            run_augmented(slanted, np.ascontiguousarray(turn(tiles)), augmentation), turn(upright)
        )
    }
    assert equal == forgets


def test_the_mean_is_exact_and_rounded(tiles: Array) -> None:
    runs: list[Array] = []

    def remember(given: Array) -> Array:
        runs.append(given)
        return np.full((*given.shape[:3], 1), 255 if len(runs) in (2, 3) else 252, dtype=np.uint8)

    found = run_augmented(remember, tiles, "flips4")
    assert (found == 254).all()  # 253.5
    assert len(runs) == 4
    assert len({run.tobytes() for run in runs}) == 4
    assert all(run.flags.c_contiguous for run in runs)


def test_the_copies_are_distinct_and_closed() -> None:
    assert {name: len(set(copies)) for name, copies in COPIES.items()} == {
        "none": 1,
        "flips4": 4,
        "dihedral8": 8,
    }
