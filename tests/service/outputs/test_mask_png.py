"""Masks as PNG hold exactly what was segmented."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import UnsupportedImageError
from service.outputs.png import encode_binary, encode_labels, encode_map, encode_rgb


def _read(data: bytes) -> NDArray[np.generic]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def test_binary_is_0_and_255(he_labels: NDArray[np.int32]) -> None:
    mask = _read(encode_binary(he_labels))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask == 255, he_labels > 0)
    assert set(np.unique(mask)) == {0, 255}


def test_labels_are_16_bit_and_exact(he_labels: NDArray[np.int32]) -> None:
    mask = _read(encode_labels(he_labels))
    assert mask.dtype == np.uint16
    assert np.array_equal(mask, he_labels)


def test_labels_up_to_the_bound() -> None:
    labels = np.arange(65_536, dtype=np.int32).reshape(256, 256)
    assert np.array_equal(_read(encode_labels(labels)), labels)
    with pytest.raises(UnsupportedImageError, match="65536 nuclei"):
        encode_labels(labels + 1)


def test_no_nuclei() -> None:
    empty = np.zeros((17, 33), np.int32)
    for encoded in (encode_binary(empty), encode_labels(empty)):
        assert not _read(encoded).any()
        assert _read(encoded).shape == (17, 33)


def test_probability_is_8_bit_and_exact(he_pixels: NDArray[np.uint8]) -> None:
    probability = np.ascontiguousarray(he_pixels[..., 0])
    assert np.array_equal(_read(encode_map(probability)), probability)


def test_rgb_keeps_its_channel_order(he_pixels: NDArray[np.uint8]) -> None:
    assert np.array_equal(_read(encode_rgb(he_pixels))[..., ::-1], he_pixels)


def test_a_side_that_no_png_holds_is_refused() -> None:
    with pytest.raises(UnsupportedImageError, match="1000001 x 1 px"):
        encode_binary(np.zeros((1, 1_000_001), np.int32))
