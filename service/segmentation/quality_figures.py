"""Figures of an image and its maps that tell whether a result can be trusted.

    pixels ─┬─ mean of 8x8 blocks ─► tissue mask ─► tissue fraction
            ├─ octave bands of the green channel, on tissue ─► sharpness, texture, finest detail
            └─ optical density of nuclei and of other tissue ─► stain, tints, colour, contrast
    maps ──── cores of the nuclei ─► their areas             nuclei ─► outlines that look merged

Everything is measured at the model's own resolution. Of a large image the tissue is found all over,
and the rest is measured in the full-resolution windows that hold most of it: shrinking the image
instead would change what sharpness means.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.segmentation.colour_figures import block_density, measure_colour, measure_contrast
from service.segmentation.measurements import Nucleus
from service.segmentation.stain_figures import measure_stain

BANDS: Final = 4
"""Octaves: detail of about 2, 4, 8 and 16 px."""
LEAST_NUCLEI: Final = 6
"""Fewer say nothing about how usual an outline is."""
LEAST_SIZED: Final = 4
"""Fewer say nothing about the usual size."""

_BLOCK_PX: Final = 8
# A block is tissue when it is textured (glass varies by 0 to 2 levels, noise of 10 levels
# averages to 4), or coloured and not perfectly even.
_TEXTURE_LEVELS: Final = 8
_FAINT_TEXTURE_LEVELS: Final = 4
_COLOURED_DENSITY: Final = 0.06
_WINDOW_PX: Final = 512
_MOST_WINDOWS: Final = 9
_LEAST_SIDE_PX: Final = 64
_LEAST_BLOCKS: Final = 16
_LEAST_CORE_PX: Final = 12
# Rounding to 256 levels is noise of 1/12 level squared; without it a smooth image would seem to
# have detail.
_ROUNDING_NOISE: Final = 1 / 12
_LEAST_ENERGY: Final = 1e-3
# Energies of white noise in the first three bands, as shares of the first; this share of the blocks
# is least textured, and their energy times this is the mean of noise alone.
_NOISE_SHARES: Final = (1.0, 0.058, 0.0104)
_QUIET_SHARE: Final = 0.05
_QUIET_TO_MEAN: Final = 1.5
_LEAST_SIGNAL: Final = 0.01
# Fourth differences: a filter that is steep towards the shortest wave that pixels can hold. They
# make noise of this much energy out of rounding, in both directions together.
_FOURTH: Final = np.array([1, -4, 6, -4, 1], dtype=np.float32) / 16
_ONE: Final = np.ones(1, dtype=np.float32)
_FOURTH_ROUNDING_NOISE: Final = 2 * 70 / 256 * _ROUNDING_NOISE
_LEAST_FOURTH: Final = 1e-4
_MOST_OUTLINES: Final = 200
# Labels of TNBC's training images that hold several nuclei have a median solidity of 0.85 and 2.1
# times the median area; single ones 0.92 and 1.0.
_MERGED_SOLIDITY: Final = 0.9
_MERGED_AREA_RATIO: Final = 1.4
_SURELY_MERGED_AREA_RATIO: Final = 3.0
_DENSITY: Final = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """What was measured; None where the image does not allow it.

    Attributes:
        tissue_fraction: Share of the image that is tissue, 0..1.
        bands: log2 of the energy ratio of neighbouring octave bands of the green channel on
            tissue, finer to coarser, shape (BANDS - 1,).
        stain: Colours and densities of nuclei and of other tissue; see `stain_figures`.
        median_core_px: Median area of the nuclei's cores, of six or more.
        size: Shape (2,): log2 of the median and of the area-weighted median core area, of four or
            more.
        merged_share: Share of the nuclei whose outline looks like several, 0..1.
        clear_sharpness: `sharpness` once the camera's noise is taken off.
        colour: Colours of dark and pale tissue, nuclei or not; see `colour_figures`.
        tints: Colours of nuclei against glass and other tissue; see `stain_figures`.
        contrast: Colours of what is dark on a small scale; see `colour_figures`.
        finest: log2 of the energy of detail near the shortest wave that pixels can hold, over that
            of detail of 2 px. What was enlarged, or blurred by more than a pixel, has none.
    """

    tissue_fraction: float
    bands: NDArray[np.float64] | None
    stain: NDArray[np.float64] | None
    median_core_px: float | None
    size: NDArray[np.float64] | None
    merged_share: float | None
    clear_sharpness: float | None = None
    colour: NDArray[np.float64] | None = None
    tints: NDArray[np.float64] | None = None
    contrast: NDArray[np.float64] | None = None
    finest: float | None = None

    @property
    def hues(self) -> NDArray[np.float64] | None:
        """`tints`, `contrast` and the colour of the palest tissue, shape (8,)."""
        if self.tints is None or self.contrast is None or self.colour is None:
            return None
        return np.concatenate([self.tints, self.contrast, self.colour[3:5]])

    @property
    def tissue_hues(self) -> NDArray[np.float64] | None:
        """`contrast` and `colour`, shape (8,): what there is where no nuclei were found."""
        if self.contrast is None or self.colour is None:
            return None
        return np.concatenate([self.contrast, self.colour])

    @property
    def sharpness(self) -> float | None:
        """Detail of 2 px over detail of 8 px, log2 of energies; does not depend on contrast."""
        return None if self.bands is None else float(self.bands[0] + self.bands[1])

    @property
    def scale(self) -> NDArray[np.float64] | None:
        """What tells the magnification: size of the nuclei and fineness of the texture."""
        if self.size is None or self.bands is None:
            return None
        return np.concatenate([self.size, self.bands])


def measure_quality(
    pixels: NDArray[np.uint8],
    maps: NDArray[np.uint8],
    nuclei: Sequence[Nucleus],
    *,
    probability_threshold: float,
    seed_threshold: float,
) -> QualityFigures:
    """Measure an image at the model's resolution.

    Args:
        pixels: RGB, shape (H, W, 3), uint8.
        maps: The model's answer, shape (H, W, C), uint8, 0..255 for 0..1.
        nuclei: What was found, at the model's resolution too.
        probability_threshold: The model's calibrated threshold, 0..1.
        seed_threshold: Likewise of the distance map.

    Returns:
        The figures; those that need more pixels, tissue or nuclei than there are, None.
    """
    figures = measure_image(
        pixels, maps, probability_threshold=probability_threshold, seed_threshold=seed_threshold
    )
    return with_outlines(figures, nuclei)


def with_outlines(figures: QualityFigures, nuclei: Sequence[Nucleus]) -> QualityFigures:
    """Complete the figures of an image by those of the nuclei that were found."""
    return dataclasses.replace(figures, merged_share=merged_share(nuclei))


def measure_image(
    pixels: NDArray[np.uint8],
    maps: NDArray[np.uint8],
    *,
    probability_threshold: float,
    seed_threshold: float,
) -> QualityFigures:
    """Measure what needs no nuclei, and can thus be done while they are separated.

    Args:
        pixels: As in `measure_quality`, likewise the others.
        maps: The model's answer.
        probability_threshold: The model's.
        seed_threshold: The model's.

    Returns:
        The figures; `merged_share` is None.
    """
    if min(pixels.shape[:2]) < _BLOCK_PX:
        return QualityFigures(0.0, None, None, None, None, None)
    tissue = _tissue(pixels)
    fraction = float(tissue.mean())
    if pixels.shape[0] * pixels.shape[1] > _MOST_WINDOWS * _WINDOW_PX**2:
        pixels, maps, tissue = _richest_windows(pixels, maps, tissue)
    foreground = _at_least(cv2.extractChannel(maps, 0), probability_threshold)
    cores = foreground
    if maps.shape[2] > 1:
        cores = foreground & _at_least(cv2.extractChannel(maps, 1), seed_threshold)
    areas = _core_areas(cores)
    median = size = None
    if len(areas) >= LEAST_SIZED:
        size = np.log2([np.median(areas), _weighted_median(areas)])
    if len(areas) >= LEAST_NUCLEI:
        median = float(np.median(areas))
    bands, clear_sharpness, finest = _bands(pixels, tissue)
    density = block_density(pixels)
    stained = measure_stain(density, foreground)
    return QualityFigures(
        tissue_fraction=fraction,
        bands=bands,
        stain=None if stained is None else stained.stain,
        median_core_px=median,
        size=size,
        merged_share=None,
        clear_sharpness=clear_sharpness,
        colour=measure_colour(density),
        tints=None if stained is None else stained.tints,
        contrast=measure_contrast(density, pixels.shape[1]),
        finest=finest,
    )


def _at_least(channel: Any, level: float) -> NDArray[np.uint8]:
    """Return 1 where a map is at least `level`, else 0."""
    # OpenCV's threshold is exclusive.
    below = math.ceil(level * 255) - 1
    return np.asarray(cv2.threshold(channel, below, 1, cv2.THRESH_BINARY)[1], dtype=np.uint8)


def _shrink(array: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Average blocks of `factor` pixels; what does not fill a block at the end is left out."""
    height, width = array.shape[0] // factor, array.shape[1] // factor
    cut = array[: height * factor, : width * factor]
    return np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the blocks of 8x8 px that hold tissue."""
    blocks = _shrink(pixels, _BLOCK_PX)
    density = _DENSITY[blocks]
    colour = density.max(axis=2) - density.min(axis=2)
    green = np.ascontiguousarray(blocks[..., 1])
    square = np.ones((3, 3), dtype=np.uint8)
    texture = cv2.subtract(cv2.dilate(green, square), cv2.erode(green, square))
    coloured = (colour > _COLOURED_DENSITY) & (texture >= _FAINT_TEXTURE_LEVELS)
    return np.asarray((texture >= _TEXTURE_LEVELS) | coloured, dtype=np.bool_)


def _richest_windows(
    pixels: NDArray[np.uint8],
    maps: NDArray[np.uint8],
    tissue: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Stack the windows with most tissue; the few seams between them do not matter."""
    height, width = pixels.shape[:2]
    window = min(_WINDOW_PX, height // _BLOCK_PX * _BLOCK_PX, width // _BLOCK_PX * _BLOCK_PX)
    step = window // _BLOCK_PX
    places = [
        (y, x)
        for y in range(0, tissue.shape[0] - step + 1, step)
        for x in range(0, tissue.shape[1] - step + 1, step)
    ]
    places.sort(key=lambda at: -int(tissue[at[0] : at[0] + step, at[1] : at[1] + step].sum()))
    chosen = places[: _MOST_WINDOWS * _WINDOW_PX**2 // window**2]

    def stack(array: NDArray[np.generic], block_px: int) -> NDArray[np.generic]:
        side = step * block_px
        cuts = [
            array[y * block_px : y * block_px + side, x * block_px : x * block_px + side]
            for y, x in chosen
        ]
        return np.concatenate(cuts)

    return (
        stack(pixels, _BLOCK_PX).astype(np.uint8, copy=False),
        stack(maps, _BLOCK_PX).astype(np.uint8, copy=False),
        stack(tissue, 1).astype(np.bool_, copy=False),
    )


def _bands(
    pixels: NDArray[np.uint8], tissue: NDArray[np.bool_]
) -> tuple[NDArray[np.float64] | None, float | None, float | None]:
    """Energies of a Laplacian pyramid (Burt and Adelson, 1983) on tissue, as log2 ratios.

    The spectrum of natural images falls evenly, so that the ratio of two octaves says how sharp an
    image is, whatever it shows and however strong its contrast.

    Returns:
        `QualityFigures.bands`, `QualityFigures.clear_sharpness` and `QualityFigures.finest`.
    """
    blocks = int(np.count_nonzero(tissue))
    if min(pixels.shape[:2]) < _LEAST_SIDE_PX or blocks < _LEAST_BLOCKS:
        return None, None, None
    rows, columns = tissue.shape
    cut = pixels[: rows * _BLOCK_PX, : columns * _BLOCK_PX]
    level = cv2.extractChannel(cut, 1).astype(np.float32)
    weight = tissue.astype(np.float32).ravel()
    energies = []
    noise = finest = 0.0
    for number in range(BANDS):
        smooth = np.asarray(cv2.GaussianBlur(level, (5, 5), 1.0), dtype=np.float32)
        detail = cv2.subtract(level, smooth)
        squared = cv2.multiply(detail, detail)
        of_block = cv2.resize(squared, (columns, rows), interpolation=cv2.INTER_AREA)
        energies.append(float(np.dot(np.asarray(of_block).ravel(), weight)) / blocks)
        if number == 0:
            # The least textured blocks show what the camera adds to all of them.
            noise = float(np.quantile(np.asarray(of_block), _QUIET_SHARE)) * _QUIET_TO_MEAN
            fourth = _fourth_differences(level, detail, squared)
            of_block = cv2.resize(fourth, (columns, rows), interpolation=cv2.INTER_AREA)
            finest = float(np.dot(np.asarray(of_block).ravel(), weight)) / blocks
        level = np.ascontiguousarray(smooth[::2, ::2])
    clear = [
        max(energy - noise * share, energy * _LEAST_SIGNAL, _LEAST_ENERGY)
        for energy, share in zip(energies, _NOISE_SHARES, strict=False)
    ]
    energies[0] -= _ROUNDING_NOISE
    logarithm = np.log2(np.maximum(energies, _LEAST_ENERGY))
    bands = np.asarray(logarithm[:-1] - logarithm[1:], dtype=np.float64)
    finest = max(finest - _FOURTH_ROUNDING_NOISE, _LEAST_FOURTH)
    share = finest / max(energies[0], _LEAST_ENERGY)
    return bands, float(np.log2(clear[0] / clear[2])), float(np.log2(share))


def _fourth_differences(
    level: NDArray[np.float32], along: cv2.typing.MatLike, across: cv2.typing.MatLike
) -> cv2.typing.MatLike:
    """Squares of the fourth differences along rows and along columns, added.

    Args:
        level: Shape (H, W), float32.
        along: Memory of that shape and type, overwritten and returned: to touch fresh memory takes
            ten times as long as to filter.
        across: Likewise, overwritten.
    """
    along = cv2.sepFilter2D(level, -1, _FOURTH, _ONE, dst=along)
    along = cv2.multiply(along, along, dst=along)
    across = cv2.sepFilter2D(level, -1, _ONE, _FOURTH, dst=across)
    return cv2.accumulateSquare(across, along)


def _core_areas(cores: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Areas of the components; specks are left out.

    Cores are taken from the maps and not from the labels: the least area of a nucleus would drop
    exactly the small nuclei of an image at too low a magnification.
    """
    # Three times as fast as connectedComponentsWithStats.
    _, core_of = cv2.connectedComponents(cores, connectivity=8)
    areas = np.bincount(np.asarray(core_of)[cores.view(np.bool_)]).astype(np.float64)
    return np.asarray(areas[areas >= _LEAST_CORE_PX], dtype=np.float64)


def _weighted_median(areas: NDArray[np.float64]) -> float:
    """The area of the nucleus in which the middle one of all nuclear pixels lies."""
    ordered = np.sort(areas)
    cumulative = np.cumsum(ordered)
    return float(ordered[np.searchsorted(cumulative, cumulative[-1] / 2)])


def merged_share(nuclei: Sequence[Nucleus]) -> float | None:
    """Share of the nuclei that are large and dented, or very large; None where they are few."""
    if len(nuclei) < LEAST_NUCLEI:
        return None
    median = float(np.median([nucleus.area_px for nucleus in nuclei]))
    looked_at = nuclei[:: -(-len(nuclei) // _MOST_OUTLINES)]
    merged = 0
    for nucleus in looked_at:
        ratio = nucleus.area_px / median
        if ratio > _SURELY_MERGED_AREA_RATIO:
            merged += 1
        elif ratio > _MERGED_AREA_RATIO:
            hull_px = cv2.contourArea(cv2.convexHull(nucleus.contour_px))
            merged += cv2.contourArea(nucleus.contour_px) < _MERGED_SOLIDITY * hull_px
    return merged / len(looked_at)
