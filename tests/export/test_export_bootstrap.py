import numpy as np
import pytest

from export.bootstrap import bootstrap
from training.matching import InstanceCounts, PixelCounts


def pixels(dice_percent: int) -> PixelCounts:
    wrong = 100 - dice_percent
    return PixelCounts(dice_percent, wrong, wrong, 1000)


def instances(found: int, extra: int = 2, missed: int = 4) -> InstanceCounts:
    return InstanceCounts(found, extra, missed, 0.75 * found, 50 * found, 90 * found)


def test_images_all_alike_leave_no_doubt() -> None:
    """Whatever is drawn, the pooled figure is that of one image: the formulas are the same."""
    drawn = bootstrap(["a", "b", "c"], [pixels(80)] * 3, [instances(20)] * 3)
    assert drawn is not None
    one = instances(20)
    expected = {
        "dice": pixels(80).dice,
        "aji": one.aji,
        "pq": one.panoptic_quality,
        "f1_at_0.5": one.f1,
        "count_bias": one.predicted_count / one.truth_count - 1,
    }
    assert drawn.intervals.keys() == expected.keys()
    for name, value in expected.items():
        assert drawn.intervals[name] == pytest.approx((value, value))


def test_patients_are_drawn_where_there_are_three() -> None:
    groups = ["a", "a", "a", "b", "b", "b", "c", "c", "c"]
    spread = [pixels(60)] * 3 + [pixels(75)] * 3 + [pixels(90)] * 3
    nuclei = [instances(10)] * 9
    drawn = bootstrap(groups, spread, nuclei)
    assert drawn is not None
    assert (drawn.resampled, drawn.units) == ("groups", 3)
    # All three of one patient come up in a ninth of the draws.
    assert drawn.intervals["dice"] == pytest.approx((0.6, 0.9))
    by_image = bootstrap(["a"] * 5 + ["b"] * 4, spread, nuclei)
    assert by_image is not None
    assert (by_image.resampled, by_image.units) == ("images", 9)
    lower, upper = by_image.intervals["dice"]
    assert 0.6 < lower < 0.75 < upper < 0.9


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Thirty patients of a known mean: 95 % of the intervals hold it, give or take."""
    random = np.random.default_rng(3)
    groups = [f"p{number}" for number in range(30)]
    held = 0
    for _ in range(100):
        found = random.binomial(200, 0.75, size=30)
        drawn = bootstrap(
            groups,
            [pixels(80)] * 30,
            [InstanceCounts(int(n), 0, 200 - int(n), 0, 0, 1) for n in found],
        )
        assert drawn is not None
        lower, upper = drawn.intervals["count_bias"]
        held += lower <= -0.25 <= upper
    assert 86 <= held <= 100


def test_nothing_annotated_has_no_bias_and_one_image_no_interval() -> None:
    empty = InstanceCounts(0, 1, 0, 0.0, 0, 50)
    drawn = bootstrap(["a", "b"], [pixels(50)] * 2, [empty] * 2)
    assert drawn is not None
    assert "count_bias" not in drawn.intervals
    assert drawn.intervals["pq"] == (0.0, 0.0)
    assert bootstrap(["a"], [pixels(50)], [empty]) is None


def test_the_draw_is_the_same_every_time() -> None:
    arguments = (["a", "b"], [pixels(50), pixels(70)], [instances(5), instances(9)])
    assert bootstrap(*arguments) == bootstrap(*arguments)


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 groups for 2 images"):
        bootstrap(["a", "b", "c"], [pixels(50)] * 2, [instances(5)] * 2)
