"""How far a pooled figure could be off by the luck of the draw: bootstrap intervals.

Images of one patient are alike, so patients are drawn with replacement where there are three or
more, and each brings all of its images (cluster bootstrap; Field and Welsh, J. R. Stat. Soc. B
2007). With one or two there is nothing to draw from: then images are drawn, and the interval says
nothing of how much patients differ. Few patients give intervals that are rather too short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from training.matching import InstanceCounts, PixelCounts

REPLICATES: Final = 2000
LEAST_GROUPS: Final = 3
"""Fewer patients than this are not resampled; their images are."""

_LEVEL: Final = 0.95
_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Intervals of pooled figures.

    Attributes:
        resampled: What was drawn with replacement.
        units: How many of them there are.
        intervals: Name of a figure to its lower and upper end, percentiles of the replicates.
    """

    resampled: Literal["groups", "images"]
    units: int
    intervals: dict[str, tuple[float, float]]

    def document(self) -> dict[str, Any]:
        """As it stands in `metrics.json`."""
        return {
            "level": _LEVEL,
            "resampled": self.resampled,
            "units": self.units,
            "replicates": REPLICATES,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
        }


@dataclass(frozen=True, slots=True)
class Draw:
    """Replicates of a data set.

    Attributes:
        resampled: What was drawn with replacement.
        units: How many of them there are.
        replicates: (REPLICATES, C), sums of each replicate.
    """

    resampled: Literal["groups", "images"]
    units: int
    replicates: NDArray[np.float64]


def bootstrap(
    groups: Sequence[str], pixels: Sequence[PixelCounts], instances: Sequence[InstanceCounts]
) -> Bootstrap | None:
    """Resample a data set and see how its pooled figures vary.

    Args:
        groups: The patient of each image.
        pixels: Counts of pixels of each image.
        instances: Counts of nuclei of each image.

    Returns:
        95 % intervals of `dice`, `aji`, `pq`, `f1_at_0.5` and, where nuclei are annotated,
        `count_bias`; None for fewer than two units. The draw is the same every time.

    Raises:
        ValueError: The three differ in length.
    """
    draw = draw_units(groups, image_sums(pixels, instances))
    if draw is None:
        return None
    figures = pooled_figures(draw.replicates)
    return Bootstrap(
        resampled=draw.resampled,
        units=draw.units,
        intervals={
            name: ends for name, values in figures.items() if (ends := interval(values)) is not None
        },
    )


def image_sums(
    pixels: Sequence[PixelCounts], instances: Sequence[InstanceCounts]
) -> NDArray[np.float64]:
    """Everything that pooled figures are ratios of, (images, 9); rows add up.

    Raises:
        ValueError: The two differ in length.
    """
    return np.array(
        [
            (
                p.true_positive,
                p.false_positive,
                p.false_negative,
                i.true_positive,
                i.false_positive,
                i.false_negative,
                i.iou_sum,
                i.aji_intersection_px,
                i.aji_union_px,
            )
            for p, i in zip(pixels, instances, strict=True)
        ],
        dtype=np.float64,
    ).reshape(-1, 9)


def draw_units(
    groups: Sequence[str], sums: NDArray[np.float64], *, least_groups: int = LEAST_GROUPS
) -> Draw | None:
    """Draw patients, or images where there are few patients.

    Args:
        groups: The patient of each image.
        sums: (images, C), rows that may be added.
        least_groups: Fewer patients than this are not drawn; their images are.

    Returns:
        The sums of every replicate, the same every time; None for fewer than two units.

    Raises:
        ValueError: The two differ in length.
    """
    if len(groups) != len(sums):
        raise ValueError(f"{len(groups)} groups for {len(sums)} images")
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    by_group = len(names) >= least_groups
    if by_group:
        units = np.zeros((len(names), sums.shape[1]))
        np.add.at(units, group_of, sums)
    else:
        units = sums
    if len(units) < 2:
        return None
    random = np.random.default_rng(_SEED)
    times = random.multinomial(len(units), np.full(len(units), 1 / len(units)), size=REPLICATES)
    return Draw("groups" if by_group else "images", len(units), times @ units)


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The ends between which 95 % of the replicates lie; None where none is defined."""
    if np.isnan(values).all():
        return None
    tail = (1 - _LEVEL) / 2
    return float(np.nanquantile(values, tail)), float(np.nanquantile(values, 1 - tail))


def pooled_figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Pooled figures of each replicate, defined as in `training.matching`."""
    hit, extra, missed, pairs, false_nuclei, missed_nuclei, iou_sum, shared, union = sums.T
    truth, predicted = pairs + missed_nuclei, pairs + false_nuclei
    quality = ratio(pairs, (truth + predicted) / 2)
    mean_iou = ratio(iou_sum, pairs, empty=0.0)
    return {
        "dice": ratio(2 * hit, 2 * hit + extra + missed),
        "aji": ratio(shared, union),
        "pq": np.where(truth + predicted > 0, quality * mean_iou, 1.0),
        "f1_at_0.5": quality,
        "count_bias": ratio(predicted - truth, truth, empty=np.nan),
    }


def ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], empty: float = 1.0
) -> NDArray[np.float64]:
    """The quotient of each pair, `empty` where there is nothing to divide by."""
    full = np.full_like(denominator, empty)
    return np.divide(numerator, denominator, out=full, where=denominator > 0)
