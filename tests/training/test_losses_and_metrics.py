import keras
import numpy as np
import pytest

from training.losses import NUCLEUS_LOSSES, boundary_weights, make_loss, touching_weights
from training.metrics import make_metrics


def maps(nucleus: list[float], distance: list[float]) -> np.ndarray:
    return np.stack([nucleus, distance], axis=-1).astype(np.float32).reshape(1, 1, -1, 2)


@pytest.mark.parametrize("name", list(NUCLEUS_LOSSES))
def test_a_better_prediction_has_a_lower_loss(name: str) -> None:
    loss = make_loss(name, distance_weight=1.0)
    truth = maps([1, 1, 0, 0], [1, 0.5, 0, 0])
    good = maps([0.9, 0.9, 0.1, 0.1], [0.9, 0.5, 0.1, 0.1])
    blank = maps([0.01] * 4, [0.01] * 4)
    full = maps([0.99] * 4, [0.99] * 4)
    best = float(loss(truth, good))
    assert best < float(loss(truth, blank))
    assert best < float(loss(truth, full))
    assert np.isfinite(float(loss(truth, maps([1, 1, 0, 0], [1, 1, 0, 0]))))


def test_bce_dice_is_the_sum_of_its_parts() -> None:
    truth, prediction = maps([1, 0], [0, 0])[..., :1], maps([0.8, 0.3], [0, 0])[..., :1]
    cross_entropy = -(np.log(0.8) + np.log(0.7)) / 2
    dice = 1 - (2 * 0.8 + 1) / (1 + 1.1 + 1)
    value = float(make_loss("bce_dice", distance_weight=1.0)(truth, prediction))
    assert value == pytest.approx(cross_entropy + dice, rel=1e-5)


def test_the_distance_counts_by_its_weight() -> None:
    truth = maps([1, 0], [1, 0])
    wrong_distance = maps([0.9, 0.1], [0.1, 0.9])
    light = float(make_loss("bce_dice", distance_weight=0.0)(truth, wrong_distance))
    heavy = float(make_loss("bce_dice", distance_weight=2.0)(truth, wrong_distance))
    assert heavy - light == pytest.approx(2 * -np.log(0.1), rel=1e-4)


def test_both_sides_of_an_edge_weigh_more_and_nothing_else() -> None:
    nucleus = np.zeros((1, 9, 9), np.float32)
    nucleus[:, 2:7, 2:7] = 1
    expected = np.ones((9, 9), np.float32)
    expected[1:8, 1:8] = 4  # a ring of two pixels: one outside, one inside
    expected[3:6, 3:6] = 1
    np.testing.assert_array_equal(np.asarray(boundary_weights(nucleus, 3.0))[0], expected)


def test_the_line_between_touching_nuclei_weighs_more_for_the_distance() -> None:
    # One row of two nuclei that touch: the mask shows one object, the distance map two.
    truth = np.zeros((1, 7, 12, 2), np.float32)
    truth[:, :, :, 0] = 1
    truth[..., 1] = np.array([0.2, 0.6, 1, 1, 0.6, 0.2, 0.2, 0.6, 1, 1, 0.6, 0.2])
    weights = np.asarray(touching_weights(truth, 2.0))[0, 3]
    np.testing.assert_array_equal(weights, [3, 1, 1, 1, 1, 3, 3, 1, 1, 1, 1, 3])
    assert np.asarray(boundary_weights(truth[..., 0], 2.0))[0, 3, 5] == 1


def test_an_error_at_the_edge_costs_more_under_boundary_weights() -> None:
    truth = np.zeros((1, 16, 16, 1), np.float32)
    truth[:, 4:12, 4:12] = 1
    prediction = np.clip(truth, 0.1, 0.9)
    at_edge, inside = prediction.copy(), prediction.copy()
    at_edge[:, 4, 6] = 0.1
    inside[:, 7, 7] = 0.1
    plain = make_loss("bce_dice", distance_weight=0)
    weighted = make_loss("bce_dice", distance_weight=0, boundary_weight=5)
    assert float(plain(truth, at_edge)) == pytest.approx(float(plain(truth, inside)), rel=1e-5)
    assert float(weighted(truth, at_edge)) > 1.05 * float(weighted(truth, inside))


def test_focal_tversky_punishes_misses_more_than_false_alarms() -> None:
    loss = make_loss("focal_tversky", distance_weight=0)
    truth = np.zeros((1, 1, 100, 1), np.float32)
    truth[..., :50, :] = 1
    missed, false_alarm = truth.copy(), truth.copy()
    missed[..., :10, :] = 0
    false_alarm[..., 50:60, :] = 1
    assert float(loss(truth, missed)) > float(loss(truth, false_alarm))


def test_metrics_are_those_of_the_definitions_and_pool_over_batches() -> None:
    random = np.random.default_rng(0)
    metrics = make_metrics()
    truths, predictions = [], []
    for _ in range(3):
        truth = (random.random((2, 8, 8, 2)) < 0.3).astype(np.float32)
        prediction = np.clip(truth * 0.3 + random.random((2, 8, 8, 2)) * 0.7, 0, 1)
        prediction = prediction.astype(np.float32)
        truths.append(truth[..., 0] > 0.5)
        predictions.append(prediction[..., 0])
        for metric in metrics:
            metric.update_state(truth, prediction)
    truth_all = np.concatenate(truths).ravel()
    probability = np.concatenate(predictions).ravel()
    found = probability > 0.5
    hits = (truth_all & found).sum()
    values = {metric.name: float(metric.result()) for metric in metrics}
    assert values["dice"] == pytest.approx(2 * hits / (truth_all.sum() + found.sum()), rel=1e-5)
    assert values["iou"] == pytest.approx(hits / (truth_all | found).sum(), rel=1e-5)
    assert values["accuracy"] == pytest.approx((truth_all == found).mean(), rel=1e-5)
    pairs = probability[truth_all][:, None] - probability[~truth_all][None]
    assert values["auc"] == pytest.approx((pairs > 0).mean(), abs=0.01)
    order = np.argsort(-probability)
    precision = np.cumsum(truth_all[order]) / np.arange(1, len(order) + 1)
    average_precision = precision[truth_all[order]].mean()
    assert values["average_precision"] == pytest.approx(average_precision, abs=0.02)


def test_a_blank_prediction_is_accurate_and_has_no_dice() -> None:
    truth = np.zeros((1, 16, 16, 1), np.float32)
    truth[:, :4, :8] = 1
    values = {}
    for metric in make_metrics():
        metric.update_state(truth, np.zeros_like(truth))
        values[metric.name] = float(metric.result())
    assert values["accuracy"] == pytest.approx(0.875)
    assert values["dice"] < 1e-4
    keras.backend.clear_session()
