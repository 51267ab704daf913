"""Figures of each nucleus: position, box, area, outline, mean probability."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Nucleus:
    """One nucleus, in pixels of the labelled image; origin top-left, x to the right, y down.

    Attributes:
        id: Its number in the label image, 1..n.
        centroid_px: Mean (x, y) of its pixels' centres; the first pixel's centre is (0, 0).
        bounding_box_px: (x, y, width, height).
        area_px: Number of its pixels.
        contour_px: Outer outline through the centres of its border pixels, shape (K, 2), int32,
            columns x and y, clockwise as seen on the screen, not closed; of the largest part where
            it has several. One or two points for the smallest nuclei.
        mean_probability: Mean nucleus probability of its pixels, 0..1.
    """

    id: int
    centroid_px: tuple[float, float]
    bounding_box_px: tuple[int, int, int, int]
    area_px: int
    contour_px: NDArray[np.int32]
    mean_probability: float


def measure(labels: NDArray[np.int32], probability: NDArray[np.uint8]) -> list[Nucleus]:
    """Measure all nuclei, in time linear in the pixels that they and their boxes cover.

    Args:
        labels: Shape (H, W), int32, 0 background, 1..n nuclei.
        probability: Shape (H, W), uint8, 0..255 for 0..1.

    Returns:
        The nuclei in the order of their numbers; numbers without a pixel are left out.

    Raises:
        ValueError: The shapes differ.
    """
    if labels.shape != probability.shape:
        raise ValueError(f"labels {labels.shape} and probability {probability.shape} differ")
    if not labels.any():
        return []
    runs = _runs(labels)
    label_at, row, column, length = runs.label, runs.row, runs.column, runs.length
    area = np.bincount(label_at, weights=length)
    present = np.flatnonzero(area)
    # Columns c, c + 1 ... c + n - 1 of a run add up to n * c + n * (n - 1) / 2.
    x_sum = np.bincount(label_at, weights=column * length + (length * (length - 1) >> 1))
    y_sum = np.bincount(label_at, weights=row * length)
    probability_sum = np.bincount(label_at, weights=_sums(probability.ravel(), runs))
    left = np.full(len(area), labels.shape[1], dtype=np.intp)
    np.minimum.at(left, label_at, column)
    right = np.zeros(len(area), dtype=np.intp)
    np.maximum.at(right, label_at, column + length)
    top, bottom = np.empty_like(left), np.empty_like(right)
    # Runs come row by row: of each label the first one lies in its top row, the last in its
    # bottom row, and of several assignments to one place the last one stays.
    top[label_at[::-1]] = row[::-1]
    bottom[label_at] = row + 1
    area_px = area[present]
    return [
        Nucleus(
            id=label,
            centroid_px=(x, y),
            bounding_box_px=(x0, y0, x1 - x0, y1 - y0),
            area_px=pixels,
            contour_px=_outline(labels[y0:y1, x0:x1], label, x0, y0),
            mean_probability=mean,
        )
        for label, x, y, x0, y0, x1, y1, pixels, mean in zip(
            present.tolist(),
            (x_sum[present] / area_px).tolist(),
            (y_sum[present] / area_px).tolist(),
            left[present].tolist(),
            top[present].tolist(),
            right[present].tolist(),
            bottom[present].tolist(),
            area_px.astype(np.intp).tolist(),
            (probability_sum[present] / (255 * area_px)).tolist(),
            strict=True,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Runs:
    """Neighbouring pixels of one label in one row, all of them intp and shape (runs,)."""

    label: NDArray[np.intp]
    start: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    length: NDArray[np.intp]


def _runs(labels: NDArray[np.int32]) -> _Runs:
    """Find the runs of all labels, row by row: a fifteenth of the numbers that pixels are."""
    flat, width = labels.ravel(), labels.shape[1]
    begins = np.ones(flat.size, dtype=np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    start = np.flatnonzero(begins)
    length = np.diff(start, append=flat.size)
    label = flat[start].astype(np.intp)
    inside = np.flatnonzero(label)
    start = start[inside]
    row, column = np.divmod(start, width)
    return _Runs(label[inside], start, row, column, length[inside])


def _sums(values: NDArray[np.uint8], runs: _Runs) -> NDArray[np.uint32]:
    """Add up the values of each run."""
    bounds = np.stack([runs.start, runs.start + runs.length], axis=1).ravel()
    # Every second sum is of what lies between two runs; the last run may end with the image.
    used = bounds[:-1] if bounds[-1] == values.size else bounds
    return np.asarray(np.add.reduceat(values, used, dtype=np.uint32)[::2])


def _outline(crop: NDArray[np.int32], label: int, x: int, y: int) -> NDArray[np.int32]:
    """Trace the outer border of `label` in its box, whose corner lies at (x, y)."""
    contours, _ = cv2.findContours(
        (crop == label).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
    )
    outline = max(contours, key=cv2.contourArea) if len(contours) > 1 else contours[0]
    # OpenCV goes anticlockwise on the screen.
    return np.ascontiguousarray(outline[::-1, 0], dtype=np.int32)
