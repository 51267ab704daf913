"""Drawn discs whose figures can be counted on paper.

A disc of radius 2 covers 1 + 3 + 5 + 3 + 1 = 13 pixels. Moved by one column it shares
0 + 2 + 4 + 2 + 0 = 8 of them with itself: the union is 18, the IoU 8/18.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from training.matching import (
    InstanceCounts,
    PixelCounts,
    compare_counts,
    count_instances,
    count_pixels,
)

DISC_PX = 13


def draw(*centres: tuple[int, int], first_label: int = 1) -> NDArray[np.int32]:
    """Discs of radius 2 at (x, y) on 20x40 pixels, labelled in order."""
    labels = np.zeros((20, 40), dtype=np.int32)
    rows, columns = np.mgrid[:20, :40]
    for label, (x, y) in enumerate(centres, start=first_label):
        labels[(columns - x) ** 2 + (rows - y) ** 2 <= 4] = label
    return labels


def test_a_drawn_disc_has_the_area_that_the_other_tests_count_with() -> None:
    assert np.count_nonzero(draw((5, 5))) == DISC_PX


def test_pixel_figures_of_a_disc_moved_by_one_column() -> None:
    counts = count_pixels(draw((5, 5)), draw((6, 5)))
    assert counts == PixelCounts(8, 5, 5, 800 - 18)
    assert counts.dice == pytest.approx(16 / 26)
    assert counts.iou == pytest.approx(8 / 18)
    assert counts.accuracy == pytest.approx(790 / 800)
    assert counts.truth_fraction == pytest.approx(13 / 800)
    assert counts.predicted_fraction == pytest.approx(13 / 800)


def test_pixel_counts_pool_by_sums_and_not_by_means() -> None:
    perfect = count_pixels(draw((5, 5)), draw((5, 5)))
    moved = count_pixels(draw((5, 5)), draw((6, 5)))
    assert (perfect + moved).dice == pytest.approx(2 * 21 / (2 * 21 + 10))


def test_the_same_nuclei_under_other_labels_are_perfect() -> None:
    counts = count_instances(draw((5, 5), (15, 5)), draw((15, 5), (5, 5), first_label=7))
    assert counts == InstanceCounts(2, 0, 0, 2.0, 26, 26)
    assert counts.panoptic_quality == counts.aji == counts.f1 == 1.0


def test_one_hit_one_loose_one_missed_one_invented() -> None:
    truth = draw((5, 5), (15, 5), (25, 5))
    predicted = draw((5, 5), (16, 5), (35, 15))
    counts = count_instances(truth, predicted)
    # The first is exact, the second overlaps by 8/18 < 0.5 and is no pair.
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (1, 2, 2)
    assert counts.f1 == pytest.approx(1 / 3)
    assert counts.detection_quality == counts.f1
    assert counts.segmentation_quality == pytest.approx(1.0)
    assert counts.panoptic_quality == pytest.approx(1 / 3)
    # AJI: intersections 13 + 8 + 0; unions 13 + 18, the missed 13 and the invented 13.
    assert counts.aji == pytest.approx((13 + 8) / (13 + 18 + 13 + 13))


def test_segmentation_quality_is_the_mean_iou_of_the_pairs() -> None:
    truth = np.zeros((10, 10), dtype=np.int32)
    truth[:4, :5] = 1
    truth[6:, :5] = 2
    predicted = truth.copy()
    predicted[0, :] = 0
    counts = count_instances(truth, predicted)
    assert counts.iou_sum == pytest.approx(15 / 20 + 1)
    assert counts.segmentation_quality == pytest.approx((0.75 + 1) / 2)
    assert counts.panoptic_quality == pytest.approx(0.875)


def test_two_touching_nuclei_predicted_as_one_have_a_perfect_dice_and_half_an_aji() -> None:
    truth = np.zeros((10, 10), dtype=np.int32)
    truth[2:6, 1:5] = 1
    truth[2:6, 5:9] = 2
    merged = (truth > 0).astype(np.int32)
    assert count_pixels(truth, merged).dice == 1.0
    counts = count_instances(truth, merged)
    # IoU with either is exactly 0.5, which does not exceed 0.5; both take the one prediction.
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (0, 1, 2)
    assert counts.aji == pytest.approx((16 + 16) / (32 + 32))


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    empty = draw()
    assert count_pixels(empty, empty).dice == 1.0
    counts = count_instances(empty, empty)
    assert counts.panoptic_quality == counts.aji == counts.f1 == 1.0


@pytest.mark.parametrize("invented", [True, False])
def test_nothing_found_and_everything_invented_are_zero(invented: bool) -> None:
    truth, predicted = (draw(), draw((5, 5))) if invented else (draw((5, 5)), draw())
    counts = count_instances(truth, predicted)
    assert counts.predicted_count == int(invented)
    assert counts.aji == counts.panoptic_quality == counts.segmentation_quality == 0.0
    assert count_pixels(truth, predicted).dice == 0.0


def test_instance_counts_pool_by_sums() -> None:
    perfect = count_instances(draw((5, 5)), draw((5, 5)))
    moved = count_instances(draw((5, 5)), draw((6, 5)))
    pooled = perfect + moved
    assert pooled.aji == pytest.approx((13 + 8) / (13 + 18))
    assert (pooled.truth_count, pooled.predicted_count) == (2, 2)
    assert pooled.f1 == pytest.approx(0.5)


def test_figures_agree_with_a_plain_loop_over_pairs() -> None:
    random = np.random.default_rng(3)
    truth = random.integers(0, 6, (12, 12)).repeat(3, 0).repeat(3, 1)
    predicted = np.roll(truth, 1, axis=1)
    counts = count_instances(truth, predicted)
    intersection, union, taken, paired = 0, 0, set(), 0
    for i in range(1, 6):
        pairs = [
            (np.sum((truth == i) & (predicted == j)), np.sum((truth == i) | (predicted == j)), j)
            for j in range(1, 6)
        ]
        best = max(pairs, key=lambda pair: pair[0] / pair[1])
        intersection, union = intersection + best[0], union + best[1]
        taken.add(best[2])
        paired += sum(pair[0] / pair[1] > 0.5 for pair in pairs)
    union += sum(np.sum(predicted == j) for j in range(1, 6) if j not in taken)
    assert counts.aji == pytest.approx(intersection / union)
    assert counts.true_positive == paired


@settings(deadline=None)
@given(
    arrays(np.int32, (9, 11), elements=st.integers(0, 5)),
    arrays(np.int32, (9, 11), elements=st.integers(0, 5)),
)
def test_aji_never_exceeds_the_foreground_iou(
    truth: NDArray[np.int32], predicted: NDArray[np.int32]
) -> None:
    counts, pixels = count_instances(truth, predicted), count_pixels(truth, predicted)
    assert counts.aji <= pixels.iou + 1e-12
    assert counts.panoptic_quality <= counts.f1 + 1e-12
    assert counts.truth_count == len(np.setdiff1d(truth, 0))
    assert counts.predicted_count == len(np.setdiff1d(predicted, 0))


@pytest.mark.parametrize("compare", [count_pixels, count_instances])
def test_images_of_two_sizes_are_refused(compare: object) -> None:
    assert callable(compare)
    with pytest.raises(ValueError, match=r"one shape.*\(20, 40\) and \(20, 39\)"):
        compare(draw(), draw()[:, 1:])


def test_negative_labels_and_loose_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="labels start at 0, found -1"):
        count_instances(draw() - 1, draw())
    with pytest.raises(ValueError, match="iou_threshold"):
        count_instances(draw(), draw(), iou_threshold=0.4)


def test_counts_of_three_images() -> None:
    agreement = compare_counts([10, 20, 30], [12, 16, 30])
    assert (agreement.truth_total, agreement.predicted_total) == (60, 58)
    assert agreement.bias == pytest.approx(-2 / 60)
    assert agreement.mape == pytest.approx((0.2 + 0.2 + 0) / 3)
    assert agreement.r2 == pytest.approx(1 - (4 + 16) / 200)
    # Differences 2, -4, 0: mean -2/3, sum of squared deviations 56/3, over n - 1 = 2.
    assert agreement.mean_difference == pytest.approx(-2 / 3)
    assert agreement.upper_limit == pytest.approx(-2 / 3 + 1.96 * (28 / 3) ** 0.5)
    assert agreement.lower_limit == pytest.approx(-2 / 3 - 1.96 * (28 / 3) ** 0.5)


def test_an_undercount_by_a_fifth_lowers_r2_though_it_correlates_perfectly() -> None:
    agreement = compare_counts([50, 100, 150], [40, 80, 120])
    assert agreement.bias == pytest.approx(-0.2)
    assert agreement.r2 == pytest.approx(1 - (100 + 400 + 900) / 5000)


def test_figures_that_the_images_do_not_define_are_none() -> None:
    one = compare_counts([3], [4])
    assert (one.r2, one.lower_limit, one.upper_limit) == (None, None, None)
    empty = compare_counts([0, 0], [0, 1])
    assert (empty.bias, empty.mape, empty.r2) == (None, None, None)
    assert compare_counts([0, 10], [5, 10]).mape == 0.0


@pytest.mark.parametrize(("truth", "predicted"), [([1, 2], [1]), ([], [])])
def test_counts_that_do_not_pair_are_refused(truth: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="as many"):
        compare_counts(truth, predicted)
