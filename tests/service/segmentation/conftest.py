"""Ideal maps of known nuclei: what a perfect model would give."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Maps = NDArray[np.uint8]


def make_ideal_maps(labels: Labels) -> Maps:
    """Render labels (H, W) as maps (H, W, 2): certain nuclei, and the contract's distance."""
    framed = np.pad(labels, 1)
    distance = np.zeros(framed.shape, dtype=np.float32)
    for label in np.unique(labels[labels > 0]):
        own = framed == label
        depth = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance[own] = depth[own] / depth.max()
    maps = np.stack([labels > 0, distance[1:-1, 1:-1]], axis=-1)
    return np.round(maps * 255).astype(np.uint8)


def grow_labels(labels: Labels, steps: int = 1) -> Labels:
    """Dilate every nucleus by a pixel a step into the background, as annotators' outlines vary."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    grown = labels.astype(np.uint16)
    for _ in range(steps):
        grown = np.where(grown > 0, grown, cv2.dilate(grown, cross))
    return grown.astype(np.int32)


@pytest.fixture(scope="session")
def ideal_maps() -> Callable[[Labels], Maps]:
    return make_ideal_maps


@pytest.fixture(scope="session")
def grown() -> Callable[..., Labels]:
    return grow_labels
