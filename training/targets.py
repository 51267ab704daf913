"""From instance labels to what a model learns: the nucleus mask and the distance map."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def split_touching(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Mask of the nuclei without the pixels in which two of them meet.

    Args:
        labels: (H, W), 0 background, 1..n nuclei.

    Returns:
        (H, W) uint8, 1 inside a nucleus whose right, lower and diagonal neighbours are not
        another nucleus: connected components of it are the nuclei.
    """
    inside = labels > 0
    meeting = np.zeros(labels.shape, bool)
    for this, that in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        differ = (labels[this] != labels[that]) & inside[this] & inside[that]
        meeting[this] |= differ
    return (inside & ~meeting).astype(np.uint8)


def distance_map(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance of each pixel to its own nucleus's edge, scaled so that each nucleus peaks at 1.

    The scaling makes a small nucleus as easy to seed as a large one (Schmidt et al., StarDist,
    MICCAI 2018, use the same map as object probability).

    Args:
        labels: (H, W), 0 background, 1..n nuclei.

    Returns:
        (H, W) float32 in 0..1, 0 outside.
    """
    distance = cv2.distanceTransform(split_touching(labels), cv2.DIST_L2, 5)
    # A pixel in which two nuclei meet got 0 from the split; it belongs to an edge all the same.
    distance = np.where((labels > 0) & (distance == 0), np.float32(0.5), distance)
    count = int(labels.max(initial=0))
    peaks = np.ones(count + 1, np.float32)
    if count:
        peaks[1:] = ndimage.maximum(distance, labels, np.arange(1, count + 1))
    # A label number that is not in the image has no peak; nothing is divided by it.
    peaks[peaks <= 0] = 1
    return np.where(labels > 0, distance / peaks[labels], 0).astype(np.float32)


def make_targets(labels: NDArray[np.int32], channels: int) -> NDArray[np.uint8]:
    """Stack the target maps of a whole image.

    Args:
        labels: (H, W), 0 background, 1..n nuclei.
        channels: 1 (nucleus) or 2 (nucleus and distance).

    Returns:
        (H, W, channels) uint8, 0..255 for 0..1: a quarter of the memory of float32.
    """
    maps = [np.where(labels > 0, 255, 0).astype(np.uint8)]
    if channels > 1:
        maps.append(np.rint(distance_map(labels) * 255).astype(np.uint8))
    return np.stack(maps, axis=-1)
