"""Polygons are valid by GEOS, the library behind QuPath's own geometry, and cover their pixels."""

import time
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from service.outputs.polygons import doubled_area, trace_polygons


def check(labels: NDArray[Any]) -> None:
    traced = trace_polygons(labels)
    assert set(traced) == set(np.unique(labels).tolist()) - {0}
    for label, polygons in traced.items():
        for rings in polygons:
            assert doubled_area(rings[0]) > 0
            assert all(doubled_area(hole) < 0 for hole in rings[1:])
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in rings)
        shapes = [Polygon(rings[0], rings[1:]) for rings in polygons]
        shape = shapes[0] if len(shapes) == 1 else MultiPolygon(shapes)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        rows, columns = np.nonzero(labels == label)
        assert shape.area == len(rows)
        assert shapely.contains_xy(shape, columns + 0.5, rows + 0.5).all()


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(np.int32, st.tuples(*[st.integers(1, 9)] * 2), elements=st.integers(0, 2)))
def test_any_labels_give_valid_polygons_of_the_same_area(labels: NDArray[np.int32]) -> None:
    check(labels)


def test_real_nuclei(he_labels: NDArray[np.int32]) -> None:
    check(he_labels)


@pytest.mark.parametrize(
    "rows",
    [
        ["1"],
        ["111111"],
        ["1", "1", "1"],
        ["111", "1.1", "111"],
        ["11111", "1.111", "111.1", "11111"],
        ["1.", ".1"],
        ["11.", "1.1", ".11"],
        ["11111", "1...1", "1.1.1", "1...1", "11111"],
        ["1111111", "1.....1", "1.111.1", "1.1.1.1", "1.111.1", "1.....1", "1111111"],
        ["2211", "2211"],
    ],
)
def test_odd_shapes(rows: list[str]) -> None:
    check(np.array([[0 if c == "." else int(c) for c in row] for row in rows], np.int32))


def test_a_ring_has_corners_only_and_runs_along_pixel_edges() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[2:4, 3:7] = 5
    assert trace_polygons(labels) == {5: [[[(7, 2), (7, 4), (3, 4), (3, 2), (7, 2)]]]}


def test_an_image_without_nuclei() -> None:
    assert trace_polygons(np.zeros((4, 4), np.int32)) == {}


def test_a_hole_goes_to_the_part_that_surrounds_it() -> None:
    labels = np.zeros((64, 64), np.int32)
    cv2.circle(labels, (16, 16), 10, 1, thickness=2)
    cv2.circle(labels, (44, 44), 12, 1, thickness=2)
    traced = trace_polygons(labels)[1]
    assert sorted(len(rings) for rings in traced) == [2, 2]
    check(labels)


def test_thousands_of_parts_with_holes_take_no_quadratic_time() -> None:
    """One nucleus of 3,600 rings, as a reviewer may draw it; each hole was tried on each part."""
    labels = np.zeros((300, 300), np.int32)
    cell = np.zeros((5, 5), np.int32)
    cell[:3, :3] = 1
    cell[1, 1] = 0
    labels[:] = np.tile(cell, (60, 60))
    began = time.process_time()
    polygons = trace_polygons(labels)[1]
    assert time.process_time() - began < 5
    assert len(polygons) == 3600
    for outer, hole in polygons:
        assert (hole[0][0] // 5, hole[0][1] // 5) == (outer[0][0] // 5, outer[0][1] // 5)
