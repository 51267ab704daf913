"""Resampling keeps places and numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.segmentation.rescaling import resize_labels, resize_maps, resize_pixels


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (23, 71), (160, 240)])
def test_pixels_keep_their_place(size: tuple[int, int]) -> None:
    pixels = np.zeros((80, 120, 3), dtype=np.uint8)
    pixels[:, 60:] = 255
    resized = resize_pixels(pixels, size)
    assert resized.shape == (*size, 3)
    assert resized[..., 0].mean() == pytest.approx(127.5, abs=3)
    assert resized[:, : size[1] // 2 - 1].max() == 0
    assert resized[:, size[1] // 2 + 1 :].min() == 255


def test_maps_keep_their_mean() -> None:
    probability = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    resized = resize_maps(probability, (16, 16))
    assert resized.shape == (16, 16)
    assert resized.mean() == pytest.approx(probability.mean(), abs=1)


def test_labels_there_and_back_are_the_same(he_labels: NDArray[np.int32]) -> None:
    height, width = he_labels.shape
    doubled = resize_labels(he_labels, (2 * height, 2 * width))
    assert np.array_equal(doubled[::2, ::2], he_labels)
    assert np.array_equal(resize_labels(doubled, (height, width)), he_labels)


def test_labels_are_centred_not_shifted() -> None:
    labels = np.zeros((90, 90), dtype=np.int32)
    labels[30:60, 30:60] = 1
    resized = resize_labels(labels, (30, 30))
    assert np.array_equal(np.nonzero(resized.any(axis=1))[0], np.arange(10, 20))


def test_vanishing_nucleus_keeps_a_pixel_at_its_centre() -> None:
    labels = np.zeros((80, 80), dtype=np.int32)
    labels[8:24, 8:24] = 1
    labels[49:52, 65:67] = 2  # between two sample points of the coarser grid
    labels[60:76, 20:36] = 3
    resized = resize_labels(labels, (10, 10))
    assert sorted(np.unique(resized)) == [0, 1, 2, 3]
    assert np.argwhere(resized == 2).tolist() == [[6, 8]]


def test_rescue_takes_no_ones_last_pixel() -> None:
    labels = np.zeros((16, 16), dtype=np.int32)
    labels[2:6, 2:6] = 1
    labels[1, 1:7] = 2
    labels[6, 1:7] = 3
    resized = resize_labels(labels, (4, 4))
    assert sorted(np.unique(resized)) == [0, 1, 2, 3]


def test_more_nuclei_than_pixels_close_up() -> None:
    labels = np.arange(1, 401, dtype=np.int32).reshape(20, 20)
    resized = resize_labels(labels, (3, 3))
    assert sorted(np.unique(resized)) == list(range(1, 10))
