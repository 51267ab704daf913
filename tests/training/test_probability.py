"""The histogram of levels against definitions written out pixel by pixel."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.probability import LEVELS, ProbabilityHistogram, count_levels


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int32]:
    random = np.random.default_rng(1)
    return (random.random((40, 50)) < 0.2).astype(np.int32) * 7


@pytest.fixture(scope="module")
def probability(truth: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Better than chance, with many ties."""
    random = np.random.default_rng(2)
    score = 90 + 60 * (truth > 0) + random.normal(0, 50, truth.shape)
    return (np.clip(score, 0, 255) // 16 * 16).astype(np.uint8)


@pytest.fixture(scope="module")
def histogram(truth: NDArray[np.int32], probability: NDArray[np.uint8]) -> ProbabilityHistogram:
    return count_levels(truth, probability)


def test_auc_is_the_share_of_pairs_in_order(
    histogram: ProbabilityHistogram, truth: NDArray[np.int32], probability: NDArray[np.uint8]
) -> None:
    inside = probability[truth > 0].astype(int)[:, None]
    outside = probability[truth == 0].astype(int)[None, :]
    expected = ((inside > outside) + 0.5 * (inside == outside)).mean()
    assert histogram.auc == pytest.approx(expected)
    assert 0.6 < expected < 0.95


def test_average_precision_is_the_step_sum_over_thresholds(
    histogram: ProbabilityHistogram, truth: NDArray[np.int32], probability: NDArray[np.uint8]
) -> None:
    expected, recall_before = 0.0, 0.0
    for level in sorted(set(probability.ravel().tolist()), reverse=True):
        called = probability >= level
        recall = (called & (truth > 0)).sum() / (truth > 0).sum()
        expected += (recall - recall_before) * (called & (truth > 0)).sum() / called.sum()
        recall_before = recall
    assert histogram.average_precision == pytest.approx(expected)


def test_curves_run_from_strict_to_lax(histogram: ProbabilityHistogram) -> None:
    false_positive_rate, true_positive_rate = histogram.roc()
    assert (false_positive_rate[0], true_positive_rate[0]) == (0, 0)
    assert (false_positive_rate[-1], true_positive_rate[-1]) == (1, 1)
    assert np.trapezoid(true_positive_rate, false_positive_rate) == pytest.approx(histogram.auc)
    recall, precision = histogram.precision_recall()
    assert (np.diff(recall) >= 0).all()
    assert precision[-1] == pytest.approx(histogram.nucleus.sum() / 2000)
    # Sixteen levels occur: no point is written twice.
    assert len(recall) <= 16
    assert len(false_positive_rate) <= 17


def test_a_perfect_and_a_reversed_map() -> None:
    truth = np.eye(8, dtype=np.int32)
    perfect = count_levels(truth, (truth * 255).astype(np.uint8))
    assert (perfect.auc, perfect.average_precision) == (1.0, 1.0)
    assert perfect.expected_calibration_error == 0
    reversed_map = count_levels(truth, (255 - truth * 255).astype(np.uint8))
    assert reversed_map.auc == 0
    assert reversed_map.expected_calibration_error == 1


def test_what_is_undefined_is_none() -> None:
    empty = count_levels(np.zeros((4, 4), np.int32), np.zeros((4, 4), np.uint8))
    assert empty.auc is None
    assert empty.average_precision is None
    assert empty.roc()[0].size == empty.precision_recall()[0].size == 0
    full = count_levels(np.ones((4, 4), np.int32), np.zeros((4, 4), np.uint8))
    assert full.auc is None
    assert full.average_precision == 1


def test_calibrated_probabilities_have_no_calibration_error() -> None:
    """Of 1000 pixels at each level, as many are nuclei as the level says."""
    levels = np.arange(LEVELS)
    nucleus = np.round(1000 * levels / 255).astype(np.int64)
    calibrated = ProbabilityHistogram(nucleus, 1000 - nucleus)
    assert calibrated.expected_calibration_error < 0.001
    bins = calibrated.reliability()
    assert len(bins) == 10
    assert sum(item.pixels for item in bins) == 256_000
    assert all(
        item.mean_probability == pytest.approx(item.observed_fraction, abs=1e-3) for item in bins
    )
    # The same scores where half as many are nuclei: stated 0.5 on average, observed 0.25.
    boastful = ProbabilityHistogram(nucleus // 2, 1000 - nucleus // 2)
    assert boastful.expected_calibration_error == pytest.approx(0.25, abs=0.005)


def test_pooling_two_images_is_counting_them_together(
    truth: NDArray[np.int32], probability: NDArray[np.uint8]
) -> None:
    halves = count_levels(truth[:20], probability[:20]) + count_levels(truth[20:], probability[20:])
    assert halves.auc == count_levels(truth, probability).auc


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        count_levels(np.zeros((4, 4)), np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        count_levels(np.zeros((4, 4)), np.zeros((4, 4)))
