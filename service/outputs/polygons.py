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

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = list[tuple[int, int]]
"""Corners (x, y) in pixels, closed: the last is the first."""
Polygon = list[Ring]
"""The outer ring, then the holes."""


def trace_polygons(labels: NDArray[np.integer[Any]]) -> dict[int, list[Polygon]]:
    """Trace every nucleus.

    Args:
        labels: (H, W), 0 background, 1 to n.

    Returns:
        By label, one polygon for each of its 4-connected parts; time and memory are linear in the
        length of all outlines.
    """
    edges = _Edges(labels)
    rings_of: dict[int, list[Ring]] = {}
    for label, ring in edges.rings():
        rings_of.setdefault(label, []).extend(_cut(ring))
    return {label: _assemble(rings_of[label]) for label in sorted(rings_of)}


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
        self._label, pixel, self._start, end_corner, self._direction = np.concatenate(parts, axis=1)
        self._width = width
        corners = (height + 1) * (width + 1)
        start_key = self._label * corners + self._start
        end_key = self._label * corners + end_corner
        order = np.argsort(start_key, kind="stable")
        # A corner begins one edge of a nucleus, or two where its pixels meet at the corner only.
        first = order[np.searchsorted(start_key, end_key, "left", sorter=order)]
        last = order[np.searchsorted(start_key, end_key, "right", sorter=order) - 1]
        self._next = np.where(pixel[first] == pixel, first, last)

    def rings(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """Return (label, corners) of each closed way, the corners where it turns alone."""
        following = self._next.tolist()
        turns = (self._direction[self._next] != self._direction).tolist()
        xs = (self._start % (self._width + 1)).tolist()
        ys = (self._start // (self._width + 1)).tolist()
        visited = bytearray(len(following))
        rings = []
        for begin, label in enumerate(self._label.tolist()):
            if visited[begin]:
                continue
            corners, edge = [], begin
            while not visited[edge]:
                visited[edge] = 1
                after = following[edge]
                if turns[edge]:
                    corners.append((xs[after], ys[after]))
                edge = after
            rings.append((label, corners))
        return rings


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


def _assemble(rings: list[Ring]) -> list[Polygon]:
    """Give each hole to the outer ring around it."""
    outer = [ring for ring in rings if doubled_area(ring) > 0]
    holes = [ring for ring in rings if doubled_area(ring) < 0]
    polygons = [[ring] for ring in outer]
    for hole in holes:
        home = 0 if len(outer) == 1 else _surrounding(hole, outer)
        polygons[home].append(hole)
    return polygons


def _surrounding(hole: Ring, outer: list[Ring]) -> int:
    """Return the number of the smallest outer ring around a hole."""
    # The middle of the pixel on the nucleus's side of the hole's first edge lies in its polygon. A
    # way has the nucleus on its right: to the right of (dx, dy) on the screen is (-dy, dx).
    (x0, y0), (x1, y1) = hole[0], hole[1]
    dx, dy = int(np.sign(x1 - x0)), int(np.sign(y1 - y0))
    middle = (x0 + 0.5 * (dx - dy), y0 + 0.5 * (dy + dx))
    around = [
        (doubled_area(ring), number)
        for number, ring in enumerate(outer)
        if cv2.pointPolygonTest(np.array(ring[:-1], np.float32), middle, measureDist=False) > 0
    ]
    return min(around)[1]
