"""Figures that compare predicted nuclei with annotated ones: pixels, objects and counts.

Pure NumPy. Everything is first reduced to counts that can be added over images (`PixelCounts`,
`InstanceCounts`), so that a figure "pooled" over a data set is one ratio of sums and not a mean of
ratios in which a tile with three nuclei weighs as much as one with three hundred.

Where neither the truth nor the prediction holds anything, every figure is 1: there was nothing to
find and nothing was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _ratio(numerator: float, denominator: float) -> float:
    """The quotient, or 1 where there was nothing to find and nothing was found."""
    return numerator / denominator if denominator > 0 else 1.0


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """The confusion matrix of foreground pixels; add two of them to pool two images."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def dice(self) -> float:
        """Dice coefficient of the foreground, 2 TP / (2 TP + FP + FN), 0..1."""
        return _ratio(
            2 * self.true_positive,
            2 * self.true_positive + self.false_positive + self.false_negative,
        )

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground, TP / (TP + FP + FN), 0..1."""
        return _ratio(
            self.true_positive, self.true_positive + self.false_positive + self.false_negative
        )

    @property
    def accuracy(self) -> float:
        """Share of pixels classified rightly, 0..1; 0.875 for an all-black mask on TNBC."""
        right = self.true_positive + self.true_negative
        return _ratio(right, right + self.false_positive + self.false_negative)

    @property
    def truth_fraction(self) -> float:
        """Share of the pixels that the annotation calls foreground, 0..1."""
        return self._fraction(self.true_positive + self.false_negative)

    @property
    def predicted_fraction(self) -> float:
        """Share of the pixels that the prediction calls foreground, 0..1."""
        return self._fraction(self.true_positive + self.false_positive)

    def _fraction(self, part_px: int) -> float:
        total_px = (
            self.true_positive + self.false_positive + self.false_negative + self.true_negative
        )
        return part_px / total_px if total_px else 0.0


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """What object-wise figures are made of; add two of them to pool two images.

    Attributes:
        true_positive: Pairs of annotated and predicted nuclei whose IoU exceeds the threshold.
        false_positive: Predicted nuclei without a partner.
        false_negative: Annotated nuclei without a partner.
        iou_sum: Sum of the IoU of the pairs.
        aji_intersection_px: Numerator of the aggregated Jaccard index, pixels.
        aji_union_px: Its denominator, pixels.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    iou_sum: float
    aji_intersection_px: int
    aji_union_px: int

    def __add__(self, other: "InstanceCounts") -> "InstanceCounts":
        return InstanceCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.iou_sum + other.iou_sum,
            self.aji_intersection_px + other.aji_intersection_px,
            self.aji_union_px + other.aji_union_px,
        )

    @property
    def truth_count(self) -> int:
        """Annotated nuclei."""
        return self.true_positive + self.false_negative

    @property
    def predicted_count(self) -> int:
        """Predicted nuclei."""
        return self.true_positive + self.false_positive

    @property
    def f1(self) -> float:
        """F1 of detection at the IoU threshold, TP / (TP + FP/2 + FN/2), 0..1."""
        return _ratio(
            self.true_positive,
            self.true_positive + 0.5 * self.false_positive + 0.5 * self.false_negative,
        )

    @property
    def detection_quality(self) -> float:
        """DQ of Kirillov et al. 2019, the same number as F1, 0..1."""
        return self.f1

    @property
    def segmentation_quality(self) -> float:
        """SQ of Kirillov et al. 2019: mean IoU of the pairs, 0..1; 0 where none paired."""
        if self.truth_count + self.predicted_count == 0:
            return 1.0
        return self.iou_sum / self.true_positive if self.true_positive else 0.0

    @property
    def panoptic_quality(self) -> float:
        """PQ = DQ x SQ (Kirillov et al., CVPR 2019), 0..1."""
        return self.detection_quality * self.segmentation_quality

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017), 0..1; never above the IoU."""
        return _ratio(self.aji_intersection_px, self.aji_union_px)


@dataclass(frozen=True, slots=True)
class CountAgreement:
    """How predicted counts agree with annotated ones over several images.

    Attributes:
        images: How many images were compared.
        truth_total: Annotated nuclei in all of them.
        predicted_total: Predicted nuclei in all of them.
        bias: Signed relative error of the total, (predicted - truth) / truth; -0.2 is 20 % too
            few. None where nothing is annotated.
        mape: Mean over images of |predicted - truth| / truth, as a ratio. Images without annotated
            nuclei have no relative error and are left out; None where none is left.
        r2: Coefficient of determination about the line predicted = truth, so an undercount lowers
            it, which the squared correlation would not notice. None below two images, or where all
            truths are equal.
        mean_difference: Bland-Altman mean of predicted - truth, nuclei an image.
        lower_limit: Bland-Altman lower limit of agreement, mean - 1.96 standard deviations,
            nuclei; None below two images.
        upper_limit: The upper limit, mean + 1.96 standard deviations, nuclei.
    """

    images: int
    truth_total: int
    predicted_total: int
    bias: float | None
    mape: float | None
    r2: float | None
    mean_difference: float
    lower_limit: float | None
    upper_limit: float | None


def count_pixels(truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> PixelCounts:
    """Confusion matrix of two masks.

    Args:
        truth: Annotation, (H, W), any dtype; what is not 0 is foreground (labels or mask).
        predicted: Prediction, of the same shape.

    Raises:
        ValueError: The two differ in shape.
    """
    _check_shapes(truth, predicted)
    truth_mask, predicted_mask = truth != 0, predicted != 0
    both = int(np.count_nonzero(truth_mask & predicted_mask))
    in_truth = int(np.count_nonzero(truth_mask))
    in_predicted = int(np.count_nonzero(predicted_mask))
    return PixelCounts(
        true_positive=both,
        false_positive=in_predicted - both,
        false_negative=in_truth - both,
        true_negative=truth.size - in_truth - in_predicted + both,
    )


def count_instances(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], *, iou_threshold: float = 0.5
) -> InstanceCounts:
    """Match predicted nuclei with annotated ones.

    A pair counts where its IoU exceeds the threshold. From 0.5 upwards a nucleus can then have one
    partner at most (Kirillov et al. 2019), so no assignment problem has to be solved.

    For the aggregated Jaccard index each annotated nucleus takes the predicted one of the greatest
    IoU, which may be taken twice, and what nobody took joins the union (Kumar et al. 2017, alg. 1).

    Args:
        truth: Labels (H, W), integers, 0 background; they need not be consecutive.
        predicted: Labels of the same shape.
        iou_threshold: At least 0.5, below 1.

    Raises:
        ValueError: Shapes differ, a label is negative or the threshold is out of range.
    """
    return count_instances_of(overlap_table(truth, predicted), iou_threshold=iou_threshold)


def count_instances_of(
    overlap_px: NDArray[np.int64], *, iou_threshold: float = 0.5
) -> InstanceCounts:
    """Match nuclei whose overlaps are known; see `count_instances`.

    Args:
        overlap_px: As `overlap_table` returns it.
        iou_threshold: At least 0.5, below 1.

    Raises:
        ValueError: The threshold is out of range.
    """
    if not 0.5 <= iou_threshold < 1:
        raise ValueError(f"iou_threshold must be in [0.5, 1), not {iou_threshold}")
    truth_area_px = overlap_px.sum(axis=1)[1:]
    predicted_area_px = overlap_px.sum(axis=0)[1:]
    shared_px = overlap_px[1:, 1:]
    truths, predictions = shared_px.shape
    if truths == 0 or predictions == 0:
        union_px = int(truth_area_px.sum() + predicted_area_px.sum())
        return InstanceCounts(0, predictions, truths, 0.0, 0, union_px)

    union_px_table = truth_area_px[:, None] + predicted_area_px[None, :] - shared_px
    iou = shared_px / union_px_table
    paired = iou > iou_threshold
    true_positive = int(np.count_nonzero(paired))

    best = iou.argmax(axis=1)
    rows = np.arange(truths)
    met = shared_px[rows, best] > 0
    untaken = np.ones(predictions, dtype=bool)
    untaken[best[met]] = False
    aji_union_px = (
        union_px_table[rows[met], best[met]].sum()
        + truth_area_px[~met].sum()
        + predicted_area_px[untaken].sum()
    )
    return InstanceCounts(
        true_positive=true_positive,
        false_positive=predictions - true_positive,
        false_negative=truths - true_positive,
        iou_sum=float(iou[paired].sum()),
        aji_intersection_px=int(shared_px[rows, best].sum()),
        aji_union_px=int(aji_union_px),
    )


def compare_counts(truth: Sequence[int], predicted: Sequence[int]) -> CountAgreement:
    """Compare the counts of several images.

    R2 alone hides a 20 % undercount, hence the signed bias, the mean absolute percentage error and
    the Bland-Altman limits (Bland and Altman, Lancet 1986) beside it.

    Args:
        truth: Annotated nuclei of each image.
        predicted: Predicted nuclei of each image, in the same order.

    Raises:
        ValueError: The lengths differ, or there is no image.
    """
    if len(truth) != len(predicted) or not truth:
        raise ValueError(
            f"needs as many predicted counts as true ones and at least one: "
            f"{len(truth)} and {len(predicted)}"
        )
    expected = np.asarray(truth, dtype=np.float64)
    difference = np.asarray(predicted, dtype=np.float64) - expected
    counted = expected > 0
    spread = float(((expected - expected.mean()) ** 2).sum())
    mean_difference = float(difference.mean())
    several = len(truth) > 1
    reach = 1.96 * float(difference.std(ddof=1)) if several else None
    return CountAgreement(
        images=len(truth),
        truth_total=int(expected.sum()),
        predicted_total=int(sum(predicted)),
        bias=float(difference.sum() / expected.sum()) if counted.any() else None,
        mape=(
            float((np.abs(difference[counted]) / expected[counted]).mean())
            if counted.any()
            else None
        ),
        r2=1.0 - float((difference**2).sum()) / spread if spread > 0 else None,
        mean_difference=mean_difference,
        lower_limit=None if reach is None else mean_difference - reach,
        upper_limit=None if reach is None else mean_difference + reach,
    )


def overlap_table(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the pixels shared by each label of `truth` (rows) and of `predicted` (columns).

    Args:
        truth: Labels (H, W), integers, 0 background.
        predicted: Labels of the same shape.

    Returns:
        Shape (truths + 1, predictions + 1), in the order of the labels. Row 0 and column 0 are
        what lies in the other one's background; their common cell stays 0.

    Raises:
        ValueError: Shapes differ, or a label is negative.
    """
    _check_shapes(truth, predicted)
    # Background shared by both is most of an image, and nobody asks for it.
    annotated = np.flatnonzero(np.logical_or(truth, predicted))
    truth_index, truth_labels = _consecutive(truth.ravel()[annotated])
    predicted_index, predicted_labels = _consecutive(predicted.ravel()[annotated])
    pairs = np.bincount(
        truth_index * predicted_labels + predicted_index, minlength=truth_labels * predicted_labels
    )
    return pairs.reshape(truth_labels, predicted_labels).astype(np.int64)


def _check_shapes(truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> None:
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise ValueError(
            f"needs two images of one shape (H, W), not {truth.shape} and {predicted.shape}"
        )


def _consecutive(labels: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Renumber flat labels 0, 1, 2 ... without gaps; also how many there are, 0 included."""
    flat = np.asarray(labels, dtype=np.int64)
    if flat.size == 0:
        return flat, 1
    if flat.min() < 0:
        raise ValueError(f"labels start at 0, found {flat.min()}")
    present = np.zeros(int(flat.max()) + 1, dtype=bool)
    present[flat] = True
    present[0] = True
    number = np.cumsum(present) - 1
    return number[flat], int(number[-1]) + 1
