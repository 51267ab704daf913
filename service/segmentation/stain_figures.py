"""Colours of nuclei and of the tissue around them.

pixels ─► means of 4x4 blocks ─► optical density ─┬─ nuclei ──────────► stain, tints
                                                  └─ other tissue ────► stain, tints

Both depend on what the model takes for nuclei; `colour_figures` does not.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.segmentation.colour_figures import STEP_PX, total_density

_LEAST_BLOCKS: Final = 20
_MOST_BLOCKS: Final = 2000
_LEAST_SIDE_PX: Final = 64
_LEAST_TISSUE_DENSITY: Final = 0.2
_INSIDE: Final = 200
_OUTSIDE: Final = 10
_GLASS_PERCENTILE: Final = 1
_GLASS_STRIDE: Final = 7
# Nuclei that are hardly denser than the tissue have no direction from it: it shrinks to 0 instead.
_LEAST_DIFFERENCE: Final = 0.01


@dataclass(frozen=True, slots=True)
class StainFigures:
    """What was measured of the stain.

    Attributes:
        stain: Shape (6,): red minus blue and green minus a third, as medians of shares of the
            optical density, of nuclei and of other tissue; then the natural logarithm of both
            densities.
        tints: Shape (4,): the same two shares of the median density of nuclei less that of the
            brightest part of the image, and of what nuclei have beyond other tissue.
    """

    stain: NDArray[np.float64]
    tints: NDArray[np.float64]


def measure_stain(
    density: NDArray[np.float32], foreground: NDArray[np.uint8]
) -> StainFigures | None:
    """Measure the colours of nuclei and of other tissue.

    `tints` leave out what differs between laboratories and scanners for reasons other than the
    dyes: how bright and how white the glass is, and how strongly the section is stained. What
    nuclei have beyond the tissue around them is the haematoxylin's own direction in optical
    density (Ruifrok and Johnston, 2001), whatever the counterstain adds to both. The colour of the
    other tissue itself is left out: it differs most between laboratories.

    Args:
        density: Of the blocks of the image, shape (blocks, 3), see `block_density`.
        foreground: 1 in nuclei, else 0, shape (H, W), uint8.

    Returns:
        The figures, or None where there are too few pixels, nuclei or tissue besides.
    """
    if min(foreground.shape) < _LEAST_SIDE_PX:
        return None
    inside = _shrink(foreground * np.uint8(255)).ravel()
    total = total_density(density)
    brightest = np.percentile(density[::_GLASS_STRIDE], _GLASS_PERCENTILE, axis=0, method="higher")
    shares, depths, medians = [], [], []
    for chosen in (inside > _INSIDE, (inside < _OUTSIDE) & (total > _LEAST_TISSUE_DENSITY)):
        position = np.flatnonzero(chosen)
        if len(position) < _LEAST_BLOCKS:
            return None
        position = position[:: -(-len(position) // _MOST_BLOCKS)]
        colour, depth = density[position], np.maximum(total[position], 1e-3)
        red_blue = np.median((colour[:, 0] - colour[:, 2]) / depth)
        shares += [red_blue, np.median(colour[:, 1] / depth) - 1 / 3]
        depths.append(np.log(np.median(depth)))
        medians.append(np.maximum(np.median(colour, axis=0) - brightest, 1e-3))
    nuclei, other = medians
    tints = [*_direction(nuclei), *_direction(nuclei - other)]
    return StainFigures(np.array([*shares, *depths], np.float64), np.array(tints, np.float64))


def _direction(density: NDArray[np.floating]) -> tuple[float, float]:
    """Red minus blue and green minus a third, as shares of a density, shape (3,), or difference."""
    size = max(float(np.abs(density).sum()), _LEAST_DIFFERENCE)
    red, green, blue = (float(part) / size for part in density)
    return red - blue, green - 1 / 3


def _shrink(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average blocks; what does not fill a block at the end is left out."""
    height, width = array.shape[0] // STEP_PX, array.shape[1] // STEP_PX
    cut = array[: height * STEP_PX, : width * STEP_PX]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
