"""Colours of the tissue alone, for images in which the model finds no nuclei.

A stain far from H&E hides the nuclei from the model, and with them the figures that stain is judged
by otherwise. The darkest and the palest tissue stand in for nuclei and stroma here: less telling,
but always there.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

STEP_PX: Final = 4
"""Blocks that colours are averaged over."""

_DENSITY: Final = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)
_LEAST_TISSUE_DENSITY: Final = 0.2
_LEAST_BLOCKS: Final = 60
_MOST_BLOCKS: Final = 4000
_NEIGHBOURS: Final = 9
_DARK_SHARE: Final = 4
_PALE_SHARE: Final = 3


def block_density(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density of the mean colour of each block of `STEP_PX`.

    Args:
        pixels: RGB, shape (H, W, 3), uint8, neither side shorter than a block.

    Returns:
        Shape (blocks, 3), row by row; what does not fill a block at the end is left out.
    """
    height, width = pixels.shape[0] // STEP_PX, pixels.shape[1] // STEP_PX
    cut = pixels[: height * STEP_PX, : width * STEP_PX]
    blocks = np.asarray(
        cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8
    )
    return np.asarray(np.take(_DENSITY, blocks).reshape(-1, 3), dtype=np.float32)


def total_density(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of the three channels, shape (blocks,)."""
    # NumPy's sum along an axis of three takes twenty times as long.
    total = density[:, 0] + density[:, 1] + density[:, 2]
    return np.asarray(total, dtype=np.float32)


def measure_colour(density: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Measure the darkest quarter and the palest third of the tissue.

    Args:
        density: Shape (blocks, 3), see `block_density`.

    Returns:
        Shape (6,): red minus blue and green minus a third, as medians of shares of the optical
        density, and the natural logarithm of its median; of the dark blocks, then of the pale ones.
        None where there is too little tissue.
    """
    total = total_density(density)
    position = np.flatnonzero(total > _LEAST_TISSUE_DENSITY)
    if len(position) < _LEAST_BLOCKS:
        return None
    position = position[:: -(-len(position) // _MOST_BLOCKS)]
    ordered = position[np.argsort(total[position])]
    dark, pale = (
        ordered[-(len(ordered) // _DARK_SHARE) :],
        ordered[: len(ordered) // _PALE_SHARE],
    )
    figures: list[float] = []
    for part in (dark, pale):
        colour, depth = density[part], total[part]
        figures += [
            float(np.median((colour[:, 0] - colour[:, 2]) / depth)),
            float(np.median(colour[:, 1] / depth)) - 1 / 3,
            float(np.log(np.median(depth))),
        ]
    return np.array(figures, dtype=np.float64)


def measure_contrast(density: NDArray[np.float32], width_px: int) -> NDArray[np.float64] | None:
    """Measure the colour of what is darker than the tissue about it.

    On the scale of nuclei, 36 px, it is nuclei that stand out, found by the model or not: how each
    channel changes with the total, by least squares, is the haematoxylin's direction in optical
    density, whatever the counterstain adds to nuclei and tissue alike. Swapped channels turn it.

    Args:
        density: Shape (blocks, 3), see `block_density`.
        width_px: Width of the image it was made of.

    Returns:
        Shape (2,): red minus blue, and green minus a third, of that direction. None where there is
        too little tissue.
    """
    columns = width_px // STEP_PX
    tissue = total_density(density) > _LEAST_TISSUE_DENSITY
    if np.count_nonzero(tissue) < _LEAST_BLOCKS:
        return None
    blocks = density.reshape(-1, columns, 3)
    usual = np.asarray(cv2.blur(blocks, (_NEIGHBOURS, _NEIGHBOURS)), dtype=np.float32)
    above = (blocks - usual).reshape(-1, 3)
    # Weights of 0 leave out what is no tissue; NumPy's choice of rows takes ten times as long.
    total = total_density(above) * tissue
    red, green, blue = (float(part) for part in total @ above / max(float(total @ total), 1e-6))
    return np.array([red - blue, green - 1 / 3], dtype=np.float64)
