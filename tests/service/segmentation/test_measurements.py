"""Per-nucleus figures against drawn shapes, and against a slow plain computation."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from service.segmentation.measurements import measure

Labels = NDArray[np.int32]


def test_rectangle_is_measured_exactly() -> None:
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[10:20, 30:50] = 1
    probability = np.full(labels.shape, 51, dtype=np.uint8)
    (nucleus,) = measure(labels, probability)
    assert nucleus.id == 1
    assert nucleus.centroid_px == (39.5, 14.5)
    assert nucleus.bounding_box_px == (30, 10, 20, 10)
    assert nucleus.area_px == 200
    assert nucleus.mean_probability == pytest.approx(0.2)
    assert nucleus.contour_px.dtype == np.int32
    corners = {tuple(point) for point in nucleus.contour_px.tolist()}
    assert corners == {(30, 10), (49, 10), (49, 19), (30, 19)}


def test_outline_runs_clockwise_on_the_screen() -> None:
    labels = np.zeros((40, 40), dtype=np.int32)
    cv2.circle(labels, (20, 20), 12, 1, -1)
    (nucleus,) = measure(labels, np.zeros(labels.shape, dtype=np.uint8))
    # With y pointing down, clockwise has a positive oriented area in x, y.
    x, y = nucleus.contour_px.T.astype(np.int64)
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0


def test_outline_filled_again_is_the_nucleus(he_labels: Labels) -> None:
    nuclei = measure(he_labels, np.zeros(he_labels.shape, dtype=np.uint8))
    assert len(nuclei) > 100
    for nucleus in nuclei:
        drawn = np.zeros(he_labels.shape, dtype=np.uint8)
        cv2.fillPoly(drawn, [nucleus.contour_px], 1)
        own = he_labels == nucleus.id
        assert (
            np.array_equal(drawn > 0, own) or cv2.connectedComponents(own.astype(np.uint8))[0] > 2
        )


def test_neighbours_do_not_leak_into_each_other() -> None:
    labels = np.ones((10, 20), dtype=np.int32)
    labels[:, 10:] = 2
    left, right = measure(labels, np.zeros(labels.shape, dtype=np.uint8))
    assert left.bounding_box_px == (0, 0, 10, 10)
    assert right.bounding_box_px == (10, 0, 10, 10)


def test_single_pixel_has_a_contour_of_one_point() -> None:
    labels = np.zeros((5, 5), dtype=np.int32)
    labels[4, 0] = 1
    (nucleus,) = measure(labels, np.zeros(labels.shape, dtype=np.uint8))
    assert nucleus.contour_px.tolist() == [[0, 4]]
    assert nucleus.centroid_px == (0.0, 4.0)
    assert nucleus.bounding_box_px == (0, 4, 1, 1)


def test_outline_of_a_nucleus_in_pieces_is_that_of_the_largest() -> None:
    labels = np.zeros((20, 20), dtype=np.int32)
    labels[1, 1] = labels[5:15, 5:15] = 1
    (nucleus,) = measure(labels, np.zeros(labels.shape, dtype=np.uint8))
    assert nucleus.area_px == 101
    assert nucleus.contour_px.min() == 5


def test_nothing_measured_where_nothing_is() -> None:
    assert measure(np.zeros((9, 9), np.int32), np.zeros((9, 9), np.uint8)) == []


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ"):
        measure(np.zeros((9, 9), np.int32), np.zeros((9, 8), np.uint8))


@given(
    st_numpy.arrays(
        np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4)
    )
)
@settings(max_examples=100, deadline=None)
def test_measurements_equal_the_plain_computation(labels: Labels) -> None:
    probability = (np.arange(labels.size, dtype=np.int64) * 37 % 256).astype(np.uint8)
    probability = probability.reshape(labels.shape)
    nuclei = measure(labels, probability)
    assert [nucleus.id for nucleus in nuclei] == np.unique(labels[labels > 0]).tolist()
    for nucleus in nuclei:
        y, x = np.nonzero(labels == nucleus.id)
        assert nucleus.area_px == len(x)
        assert nucleus.centroid_px == pytest.approx((x.mean(), y.mean()))
        width, height = np.ptp(x) + 1, np.ptp(y) + 1
        assert nucleus.bounding_box_px == (x.min(), y.min(), width, height)
        assert nucleus.mean_probability == pytest.approx(probability[y, x].mean() / 255)
        assert all(labels[row, column] == nucleus.id for column, row in nucleus.contour_px)
