"""How good a map of probabilities is before any threshold: ROC, precision and recall, calibration.

Maps have 256 levels, so two histograms, one of the nucleus pixels and one of the others, hold
everything exactly: two images are pooled by adding, and memory does not grow with their number.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = 256
"""Levels of a map, 0..255 for 0..1."""

RELIABILITY_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pixels of like probability.

    Attributes:
        mean_probability: What the model says of them on average, 0..1.
        observed_fraction: Share of them that the annotation calls nucleus, 0..1.
        pixels: How many they are.
    """

    mean_probability: float
    observed_fraction: float
    pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityHistogram:
    """Pixels by predicted level and truth; add two of them to pool two images.

    Attributes:
        nucleus: Pixels annotated as nucleus, by level, (256,), int64.
        background: The other pixels, by level, (256,), int64.
    """

    nucleus: NDArray[np.int64]
    background: NDArray[np.int64]

    def __add__(self, other: "ProbabilityHistogram") -> "ProbabilityHistogram":
        return ProbabilityHistogram(
            self.nucleus + other.nucleus, self.background + other.background
        )

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve, 0..1, ties counted half; None where one class is absent."""
        positives, negatives = int(self.nucleus.sum()), int(self.background.sum())
        if not positives or not negatives:
            return None
        below = np.cumsum(self.background) - self.background
        wins = (self.nucleus * (below + 0.5 * self.background)).sum()
        return float(wins / (positives * negatives))

    @property
    def average_precision(self) -> float | None:
        """Sum over thresholds of precision times gain in recall, 0..1; None without nuclei.

        No interpolation, so that it is not better than any choice of threshold allows.
        """
        positives = int(self.nucleus.sum())
        if not positives:
            return None
        hits, alarms = self._at_least()
        found = hits + alarms
        precision = np.divide(hits, found, out=np.ones(LEVELS), where=found > 0)
        return float((self.nucleus[::-1] * precision).sum() / positives)

    @property
    def expected_calibration_error(self) -> float:
        """Mean over pixels of |stated - observed| by bin (Naeini et al., AAAI 2015), 0..1.

        Most pixels are plain background and stated as such, so read it beside the curve.
        """
        bins = self.reliability()
        total = sum(item.pixels for item in bins)
        gap = sum(
            abs(item.mean_probability - item.observed_fraction) * item.pixels for item in bins
        )
        return gap / total if total else 0.0

    def reliability(self, bins: int = RELIABILITY_BINS) -> list[ReliabilityBin]:
        """Stated against observed share of nucleus pixels, in bins of equal width.

        Args:
            bins: Number of bins over 0..1.

        Returns:
            The bins that hold a pixel, from the least probability up.
        """
        pixels = self.nucleus + self.background
        stated = np.arange(LEVELS) / (LEVELS - 1)
        bin_of = np.minimum((stated * bins).astype(np.int64), bins - 1)
        size = np.bincount(bin_of, weights=pixels, minlength=bins)
        stated_sum = np.bincount(bin_of, weights=pixels * stated, minlength=bins)
        observed = np.bincount(bin_of, weights=self.nucleus, minlength=bins)
        return [
            ReliabilityBin(
                float(stated_sum[i] / size[i]), float(observed[i] / size[i]), int(size[i])
            )
            for i in np.flatnonzero(size)
        ]

    def roc(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False and true positive rate, from (0, 0) to (1, 1); empty where a class is absent."""
        positives, negatives = int(self.nucleus.sum()), int(self.background.sum())
        if not positives or not negatives:
            return np.empty(0), np.empty(0)
        hits, alarms = self._at_least()
        return _thin(
            np.concatenate([[0.0], alarms / negatives]), np.concatenate([[0.0], hits / positives])
        )

    def precision_recall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision, thresholds falling; empty where no nucleus is annotated."""
        positives = int(self.nucleus.sum())
        hits, alarms = self._at_least()
        called = hits + alarms > 0
        if not positives:
            return np.empty(0), np.empty(0)
        return _thin((hits / positives)[called], (hits[called] / (hits + alarms)[called]))

    def _at_least(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Nucleus and background pixels at or above 255, 254, ... 0."""
        return np.cumsum(self.nucleus[::-1]), np.cumsum(self.background[::-1])


def count_levels(
    truth: NDArray[np.generic], probability: NDArray[np.uint8]
) -> ProbabilityHistogram:
    """Count the pixels of one image by predicted level and truth.

    Args:
        truth: Annotation, (H, W), any dtype; what is not 0 is nucleus.
        probability: Nucleus probability, (H, W), uint8, 0..255 for 0..1.

    Raises:
        ValueError: The two differ in shape, or the map is not uint8.
    """
    if truth.shape != probability.shape or probability.dtype != np.uint8:
        raise ValueError(
            f"needs a truth and a uint8 map of one shape, not {truth.shape} and "
            f"{probability.shape}, {probability.dtype}"
        )
    inside = np.bincount(probability[truth != 0], minlength=LEVELS).astype(np.int64)
    everything = np.bincount(probability.ravel(), minlength=LEVELS).astype(np.int64)
    return ProbabilityHistogram(inside, everything - inside)


def _thin(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drop points that repeat their predecessor: levels that no pixel has."""
    new = np.ones(len(x), dtype=bool)
    new[1:] = (np.diff(x) != 0) | (np.diff(y) != 0)
    return x[new], y[new]
