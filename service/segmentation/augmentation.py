"""Test-time augmentation: run turned and mirrored copies of each tile, and average their maps.

Tissue has no upright, a trained network slightly has. The average forgets which way up the image
was scanned, and with it part of the network's noise.

    tile ─┬─ as it is ──────► network ─────────────────► maps ─┐
          ├─ mirrored ──────► network ─► mirrored back ► maps ─┼─► mean
          └─ turned ... ────► network ─► turned back ──► maps ─┘

Each copy is a full run of the network: `flips4` takes four times as long, `dihedral8` eight times.
"""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

TestTimeAugmentation = Literal["none", "flips4", "dihedral8"]

Run = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""From tiles (N, H, W, 3) to maps (N, H, W, C), both uint8."""

_Copy = tuple[int, bool]
"""Quarter turns anticlockwise, then whether left and right change sides."""

COPIES: Final[dict[TestTimeAugmentation, tuple[_Copy, ...]]] = {
    "none": ((0, False),),
    # As it is, mirrored either way, and half a turn.
    "flips4": ((0, False), (0, True), (2, False), (2, True)),
    "dihedral8": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""The copies of each mode. Each set is a group: what the caller turned beforehand permutes it."""


def run_augmented(
    run: Run, tiles: NDArray[np.uint8], augmentation: TestTimeAugmentation
) -> NDArray[np.uint8]:
    """Run a network on the copies of tiles and average what it says.

    Args:
        run: The network. `dihedral8` gives it tiles of swapped sides too.
        tiles: Shape (N, H, W, 3), uint8.
        augmentation: Which copies.

    Returns:
        Maps, shape (N, H, W, C), uint8: the mean over the copies, halves rounded up.
    """
    if augmentation == "none":
        return run(tiles)
    copies = COPIES[augmentation]
    total: NDArray[np.uint16] | None = None
    for copy in copies:
        maps = _back(run(np.ascontiguousarray(_turned(tiles, copy))), copy)
        if total is None:
            total = maps.astype(np.uint16)
        else:
            total += maps
    # Eight times 255 is far from the end of 16 bits; the sum is exact, whatever the order.
    mean = (np.asarray(total) + len(copies) // 2) // len(copies)
    return np.ascontiguousarray(mean.astype(np.uint8))


def _turned(tiles: NDArray[np.uint8], copy: _Copy) -> NDArray[np.uint8]:
    turns, mirrored = copy
    turned = np.rot90(tiles, turns, axes=(1, 2))
    return turned[:, :, ::-1] if mirrored else turned


def _back(maps: NDArray[np.uint8], copy: _Copy) -> NDArray[np.uint8]:
    turns, mirrored = copy
    return np.rot90(maps[:, :, ::-1] if mirrored else maps, -turns, axes=(1, 2))
