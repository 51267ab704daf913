"""Quality flags: is this image one that the model can be trusted on?

Figures of the image (`quality_figures`) are compared with those of the model's training images
(`quality_reference`). A flag that fires never changes the count; it says that a person should look,
and at what.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.segmentation.measurements import Nucleus
from service.segmentation.quality_figures import QualityFigures, measure_quality
from service.segmentation.quality_reference import QualityReference

FlagName = Literal[
    "blur", "too_little_tissue", "stain_shift", "magnification_mismatch", "merged_nuclei"
]
Direction = Literal["below", "above"]

DEFAULT_LEAST_TISSUE: Final = 0.05
"""For models that state none: an empty field needs no reference to be recognised."""

_SAME_MPP: Final = 0.005

_NO_REFERENCE: Final = (
    "Not assessed: this model carries no reference for it. Release it anew with"
    " `python -m export model`."
)
_FEW_NUCLEI: Final = "Not assessed: too few nuclei, or too small an image."
_LITTLE_TISSUE: Final = "Not assessed: there is too little tissue, or the image is too small."


@dataclass(frozen=True, slots=True)
class QualityFlag:
    """One check of one image.

    Attributes:
        name: What was checked.
        value: What was measured, in `unit`; None where it could not be.
        threshold: The flag fires beyond it; None where the model states none.
        unit: Unit of both.
        direction: On which side of the threshold the flag fires.
        assessed: Whether there were a value and a threshold to compare.
        fired: Whether a person should look.
        message: What it means and what to do, in plain words.
    """

    name: FlagName
    value: float | None
    threshold: float | None
    unit: str
    direction: Direction
    assessed: bool
    fired: bool
    message: str


def assess_quality(
    pixels: NDArray[np.uint8],
    maps: NDArray[np.uint8],
    nuclei: Sequence[Nucleus],
    reference: QualityReference,
    *,
    probability_threshold: float,
    seed_threshold: float,
    mpp: float,
) -> tuple[QualityFlag, ...]:
    """Check an image at the model's resolution.

    Args:
        pixels: RGB, shape (H, W, 3), uint8.
        maps: The model's answer to them, shape (H, W, C), uint8.
        nuclei: What was found.
        reference: The model's.
        probability_threshold: The model's calibrated threshold, not the caller's.
        seed_threshold: Likewise.
        mpp: Resolution that was given or assumed for the image, micrometres per pixel.

    Returns:
        Every flag, fired or not, in a fixed order.
    """
    figures = measure_quality(
        pixels,
        maps,
        nuclei,
        probability_threshold=probability_threshold,
        seed_threshold=seed_threshold,
    )
    return judge_quality(figures, reference, mpp=mpp)


def judge_quality(
    figures: QualityFigures, reference: QualityReference, *, mpp: float
) -> tuple[QualityFlag, ...]:
    """Compare figures with a reference; see `assess_quality`."""
    tissue = _tissue_flag(figures, reference)
    blur = _blur_flag(figures, reference, mpp, empty=tissue.fired)
    return (
        blur,
        tissue,
        _stain_flag(figures, reference, empty=tissue.fired),
        _magnification_flag(figures, reference, mpp, hidden=tissue.fired or blur.fired),
        _merged_flag(figures, reference),
    )


def _flag(
    name: FlagName,
    value: float | None,
    threshold: float | None,
    unit: str,
    direction: Direction,
    *,
    good: str,
    bad: str,
    unmeasured: str,
) -> QualityFlag:
    """Compare, and choose the message."""
    if value is None or threshold is None:
        message = _NO_REFERENCE if threshold is None else unmeasured
        return QualityFlag(name, value, threshold, unit, direction, False, False, message)
    fired = value < threshold if direction == "below" else value > threshold
    message = bad if fired else good
    return QualityFlag(name, value, threshold, unit, direction, True, fired, message)


def _tissue_flag(figures: QualityFigures, reference: QualityReference) -> QualityFlag:
    least = reference.least_tissue
    return _flag(
        "too_little_tissue",
        figures.tissue_fraction,
        DEFAULT_LEAST_TISSUE if least is None else least,
        "share of the image",
        "below",
        good="There is enough tissue.",
        bad=f"Only {figures.tissue_fraction:.0%} of the image is tissue. A count of so little says"
        " nothing about the specimen: choose another field.",
        unmeasured=_LITTLE_TISSUE,
    )


def _blur_flag(
    figures: QualityFigures, reference: QualityReference, mpp: float, *, empty: bool
) -> QualityFlag:
    value, least = figures.sharpness, reference.least_sharpness
    unit = "log2 of fine over medium detail"
    clear, least_clear = figures.clear_sharpness, reference.least_clear_sharpness
    sharp = value is None or least is None or value >= least
    if sharp and clear is not None and least_clear is not None and clear < least_clear:
        # What looks like detail is the camera's noise.
        value, least, unit = clear, least_clear, f"{unit}, noise taken off"
        sharp = False
    bad = (
        "The image is out of focus or lacks fine detail: neighbouring nuclei may run together"
        " and pale ones may be missed. Refocus and scan again."
    )
    finest = figures.finest if _as_scanned(mpp, reference) else None
    least_finest = reference.least_finest
    if sharp and finest is not None and least_finest is not None and finest < least_finest:
        value, least, unit = finest, least_finest, "log2 of finest over fine detail"
        bad = (
            "The image lacks the finest detail: it was enlarged from a lower resolution, or is"
            " slightly out of focus. Use the image as the scanner made it, or scan again."
        )
    return _flag(
        "blur",
        None if empty else value,
        least,
        unit,
        "below",
        good="The image is sharp enough.",
        bad=bad,
        unmeasured=_LITTLE_TISSUE,
    )


def _as_scanned(mpp: float, reference: QualityReference) -> bool:
    """Whether the image was measured without being resampled to the model's resolution."""
    finest_mpp = reference.finest_mpp
    return finest_mpp is not None and math.isclose(mpp, finest_mpp, rel_tol=_SAME_MPP)


def _stain_flag(
    figures: QualityFigures, reference: QualityReference, *, empty: bool
) -> QualityFlag:
    # The newest figures that the model file knows.
    judged = ((reference.hues, figures.hues), (reference.tints, figures.tints))
    comparison, stain = next(
        (pair for pair in judged if pair[0] is not None), (reference.stain, figures.stain)
    )
    if stain is None:
        # No nuclei to take colours from, which may itself come from the stain.
        if reference.tissue_hues is not None:
            comparison, stain = reference.tissue_hues, figures.tissue_hues
        elif reference.colour is not None:
            comparison, stain = reference.colour, figures.colour
    if empty:
        stain = None
    odds = None if comparison is None or stain is None else comparison.log_odds(stain)
    return _flag(
        "stain_shift",
        odds,
        None if comparison is None else comparison.most_log_odds,
        "natural log-odds of a shifted stain",
        "above",
        good="The colours are like those the model was trained on.",
        bad="The colours are unlike the H&E stains the model was trained on (another stain, swapped"
        " channels, or a scanner's colours). Nuclei may be missed or invented: compare the outlines"
        " with the image before using the count.",
        unmeasured="Not assessed: no nuclei and tissue to take colours from.",
    )


def _magnification_flag(
    figures: QualityFigures, reference: QualityReference, mpp: float, *, hidden: bool
) -> QualityFlag:
    """Estimate the resolution, and compare it with the one that was given or assumed."""
    stated = reference.coarse is not None or reference.magnification is not None
    estimate = None
    if stated and not hidden:
        judge = _scale_by_texture if reference.coarse is None else _scale_by_size
        estimate = judge(figures, reference)
    # Where the odds are at the threshold, the estimate is halfway between the two scales.
    ratio, limit = (None, math.sqrt(2)) if estimate is None else estimate
    value = None if ratio is None else mpp * ratio
    return _flag(
        "magnification_mismatch",
        value,
        mpp * limit if stated else None,
        "um/px",
        "above" if limit > 1 else "below",
        good="The nuclei fit the resolution.",
        bad=f"The nuclei look like {value or 0:.2g} um/px, but {mpp:.3g} um/px was given"
        " or assumed. Give the scanner's resolution as `mpp` (0.25 is 40x, 0.5 is 20x); the count"
        " and all areas depend on it.",
        unmeasured="Not assessed: too few nuclei, too little tissue, or a blurred image.",
    )


def _scale_by_size(
    figures: QualityFigures, reference: QualityReference
) -> tuple[float, float] | None:
    """Tell half and twice the resolution by the size of the nuclei.

    Returns:
        Estimated resolution over the stated one, and the ratio beyond which the flag fires.
    """
    coarse, fine, size = reference.coarse, reference.fine, figures.size
    if coarse is None or size is None:
        return None
    above = coarse.log_odds(size) - coarse.most_log_odds
    below = -math.inf if fine is None else fine.log_odds(size) - fine.most_log_odds
    if below > max(above, 0):
        return 2 ** -_share(below), 1 / math.sqrt(2)
    return 2 ** _share(above), math.sqrt(2)


def _scale_by_texture(
    figures: QualityFigures, reference: QualityReference
) -> tuple[float, float] | None:
    """Tell the resolution by nuclei and texture together, as model files of old have it.

    Nuclei of twice the size mean half the micrometres a pixel. The other way round size alone does
    not tell: a tumour at half the magnification has nuclei of a lymphocyte's size.

    Returns:
        As `_scale_by_size`.
    """
    comparison, scale = reference.magnification, figures.scale
    usual_px, most_px = reference.median_core_px, reference.most_median_core_px
    median_px = figures.median_core_px
    if comparison is None or usual_px is None or most_px is None:
        return None
    if scale is None or median_px is None:
        return None
    if median_px > most_px:
        return math.sqrt(usual_px / median_px), math.sqrt(usual_px / most_px)
    return 2 ** _share(comparison.log_odds(scale) - comparison.most_log_odds), math.sqrt(2)


def _share(log_odds: float) -> float:
    """Probability, 0..1, of natural log-odds."""
    return 1 / (1 + math.exp(-log_odds))


def _merged_flag(figures: QualityFigures, reference: QualityReference) -> QualityFlag:
    share = figures.merged_share
    return _flag(
        "merged_nuclei",
        share,
        reference.most_merged_share,
        "share of the nuclei",
        "above",
        good="The outlines look like single nuclei.",
        bad=f"{share or 0:.0%} of the outlines are dented or far larger than the others and may"
        " hold several nuclei. The count may be too low: look at the overlay where nuclei crowd.",
        unmeasured=_FEW_NUCLEI,
    )
