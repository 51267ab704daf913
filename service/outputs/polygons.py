"""From labels to polygons along the pixels' edges, valid by the rules of OGC Simple Features.

A pixel (x, y) is the square from (x, y) to (x + 1, y + 1), so a polygon covers exactly its nucleus:
its area is the number of pixels, and a nucleus one pixel wide is a rectangle, not a line.

    labels  1 1       ring  (0,0) ─► (2,0)     interior on the right of the way, as seen on the
            1 .             ▲          ▼       screen; holes go round the other way
                            │  (1,1) ◄─(2,1)
                            (0,2) ◄─(1,2)

Where two pixels of a nucleus meet at a corner only, the way stays on its own pixel, and a ring that
then passes a corner twice is cut there: each ring is simple, and rings touch in single points.
"""

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = list[tuple[int, int]]
"""Corners (x, y) in pixels, closed: the last is the first."""
Polygon = list[Ring]
"""The outer ring, then the holes."""

_RIGHT, _LEFT = 1, 3
"""Directions of the edges on that side of their pixels."""


def trace_polygons(labels: NDArray[np.integer[Any]]) -> dict[int, list[Polygon]]:
    """Trace every nucleus.

    Args:
        labels: (H, W), 0 background, 1 to n.

    Returns:
        By label, one polygon for each of its 4-connected parts; time and memory are linear in the
        length of all outlines.
    """
    edges = _Edges(labels)
    ways_of: dict[int, list[tuple[int, list[Ring]]]] = {}
    for way, (label, corners) in enumerate(edges.rings()):
        ways_of.setdefault(label, []).append((way, _cut(corners)))
    return {label: _assemble(ways_of[label], edges) for label in sorted(ways_of)}


class _Edges:
    """All edges between a nucleus and something else, each with the edge that follows it."""

    def __init__(self, labels: NDArray[np.integer[Any]]) -> None:
        height, width = labels.shape
        padded = np.zeros((height + 2, width + 2), labels.dtype)
        padded[1:-1, 1:-1] = labels
        inner = padded[1:-1, 1:-1]
        # Neighbour, start corner, end corner of the edges above, right, below, left of a pixel.
        sides = (
            (padded[:-2, 1:-1], (0, 0), (1, 0)),
            (padded[1:-1, 2:], (1, 0), (1, 1)),
            (padded[2:, 1:-1], (1, 1), (0, 1)),
            (padded[1:-1, :-2], (0, 1), (0, 0)),
        )
        parts = []
        for direction, (neighbour, start, end) in enumerate(sides):
            y, x = np.nonzero((inner != 0) & (neighbour != inner))
            parts.append(
                np.stack(
                    [
                        inner[y, x].astype(np.int64),
                        y * width + x,
                        (y + start[1]) * (width + 1) + x + start[0],
                        (y + end[1]) * (width + 1) + x + end[0],
                        np.full(len(x), direction),
                    ]
                )
            )
        self._label, self._pixel, self._start, end_corner, self._direction = np.concatenate(
            parts, axis=1
        )
        self._width = width
        corners = (height + 1) * (width + 1)
        start_key = self._label * corners + self._start
        end_key = self._label * corners + end_corner
        order = np.argsort(start_key, kind="stable")
        # A corner begins one edge of a nucleus, or two where its pixels meet at the corner only.
        first = order[np.searchsorted(start_key, end_key, "left", sorter=order)]
        last = order[np.searchsorted(start_key, end_key, "right", sorter=order) - 1]
        self._next = np.where(self._pixel[first] == self._pixel, first, last)

    def rings(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """Return (label, corners) of each closed way, the corners where it turns alone."""
        following = self._next.tolist()
        turns = (self._direction[self._next] != self._direction).tolist()
        xs = (self._start % (self._width + 1)).tolist()
        ys = (self._start // (self._width + 1)).tolist()
        way_of = [-1] * len(following)
        rings: list[tuple[int, list[tuple[int, int]]]] = []
        for begin, label in enumerate(self._label.tolist()):
            if way_of[begin] >= 0:
                continue
            corners, edge, way = [], begin, len(rings)
            while way_of[edge] < 0:
                way_of[edge] = way
                after = following[edge]
                if turns[edge]:
                    corners.append((xs[after], ys[after]))
                edge = after
            rings.append((label, corners))
        self._way = np.array(way_of, np.int64)
        return rings

    @cached_property
    def left_of(self) -> list[int]:
        """For each way, the way of the same part that its leftmost point looks at.

        From the pixel left of a hole's leftmost edge its row is followed to the left, as far as it
        is the same nucleus: there lies the outline of the part, or a hole farther to the left.
        """
        right = np.flatnonzero(self._direction == _RIGHT)
        left = np.flatnonzero(self._direction == _LEFT)
        pixel = self._pixel[right]
        leftmost = np.lexsort((pixel % self._width, self._way[right]))
        _, first = np.unique(self._way[right][leftmost], return_index=True)
        # Left edges come row by row, so the last one up to a pixel begins the pixel's own run.
        begins = np.searchsorted(self._pixel[left], pixel[leftmost][first], "right") - 1
        ways: list[int] = self._way[left][begins].tolist()
        return ways


def _cut(corners: list[tuple[int, int]]) -> list[Ring]:
    """Cut a way at the corners that it passes twice, and close the pieces."""
    pieces: list[list[tuple[int, int]]] = []
    way: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in corners:
        if corner in place:
            begin = place[corner]
            pieces.append(way[begin:])
            for passed in way[begin:]:
                del place[passed]
            del way[begin:]
        place[corner] = len(way)
        way.append(corner)
    pieces.append(way)
    return [[*piece, piece[0]] for piece in pieces]


def doubled_area(ring: Ring) -> int:
    """Return twice the signed area (shoelace formula): positive for outer rings."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))


def _assemble(ways: list[tuple[int, list[Ring]]], edges: _Edges) -> list[Polygon]:
    """Give each hole to the outer ring around it: one way has one outer ring, or holes alone."""
    polygons: list[Polygon] = []
    home_of: dict[int, Polygon] = {}
    holes: list[tuple[int, Ring]] = []
    for way, rings in ways:
        for ring in rings:
            if doubled_area(ring) > 0:
                home_of[way] = [ring]
                polygons.append(home_of[way])
            else:
                holes.append((way, ring))
    for way, hole in holes:
        if len(polygons) == 1:
            polygons[0].append(hole)
            continue
        passed, at = [], way
        while at not in home_of:
            passed.append(at)
            at = edges.left_of[at]
        home_of.update(dict.fromkeys(passed, home_of[at]))
        home_of[at].append(hole)
    return polygons
