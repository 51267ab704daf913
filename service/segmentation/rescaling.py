"""Bring pixels to the model's resolution, and labels and maps back to the caller's."""

import cv2
import numpy as np
from numpy.typing import NDArray

# How far from its own place a vanishing nucleus may be put, in pixels.
_RESCUE_REACH_PX = 2


def resize_pixels(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample an image: area average when it shrinks, bilinear when it grows.

    Args:
        pixels: Shape (H, W, 3), uint8.
        size: New (height, width).

    Returns:
        Shape (height, width, 3), uint8.
    """
    shrinks = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    return _resize(pixels, size, shrinks=shrinks)


def resize_maps(probability: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample a map of shape (H, W), uint8, to `size` (height, width)."""
    return _resize(probability, size, shrinks=size[0] * size[1] < probability.size)


def _resize(array: NDArray[np.uint8], size: tuple[int, int], *, shrinks: bool) -> NDArray[np.uint8]:
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(array, (size[1], size[0]), interpolation=method)
    return np.ascontiguousarray(resized, dtype=np.uint8)


def resize_labels(labels: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """Resample labels to the nearest pixel, and keep every nucleus as long as there is room.

    A nucleus too small for the new grid gets the free pixel, or the pixel of a larger nucleus, that
    is nearest to its centre. Where more nuclei crowd than there are pixels, the rest is lost and
    the numbers close up, so that the count and the highest label always agree.

    Args:
        labels: Shape (H, W), int32, 0 background, 1..n nuclei.
        size: New (height, width).

    Returns:
        Shape (height, width), int32, 0 background, 1..m nuclei, m <= n, in the old order.
    """
    height, width = labels.shape
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.intp)
    resized = labels[np.ix_(rows, columns)]
    count = int(labels.max())
    area = np.bincount(resized.ravel(), minlength=count + 1)
    vanished = np.flatnonzero(area[1:] == 0) + 1
    if not len(vanished):
        return resized
    y, x = np.nonzero(labels)
    label_at = labels[y, x]
    pixels = np.maximum(np.bincount(label_at, minlength=count + 1), 1)
    centre_y = np.bincount(label_at, weights=y + 0.5, minlength=count + 1) / pixels
    centre_x = np.bincount(label_at, weights=x + 0.5, minlength=count + 1) / pixels
    for label in vanished.tolist():
        place = _nearest_free(
            resized,
            area,
            float(centre_y[label]) * size[0] / height,
            float(centre_x[label]) * size[1] / width,
        )
        if place is not None:
            area[resized[place]] -= 1
            area[label] = 1
            resized[place] = label
    present = area > 0
    present[0] = False
    number = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return number[resized]


def _nearest_free(
    labels: NDArray[np.int32], area: NDArray[np.intp], y: float, x: float
) -> tuple[int, int] | None:
    """Return the pixel nearest to (y, x) that is background or not its nucleus's last one."""
    top, left = (max(0, int(value) - _RESCUE_REACH_PX) for value in (y, x))
    window = labels[
        top : int(y) + _RESCUE_REACH_PX + 1,
        left : int(x) + _RESCUE_REACH_PX + 1,
    ]
    free_y, free_x = np.nonzero((window == 0) | (area[window] > 1))
    if not len(free_y):
        return None
    nearest = int(np.argmin((free_y + top + 0.5 - y) ** 2 + (free_x + left + 0.5 - x) ** 2))
    return int(free_y[nearest]) + top, int(free_x[nearest]) + left
