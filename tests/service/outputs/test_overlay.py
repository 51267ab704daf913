"""Outlines lie within their nuclei, close around each, and leave the rest as it was."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.outputs.overlay import DEFAULT_COLOUR, draw_overlay, encode_overlay, find_outlines


def test_outline_of_one_square() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[2:7, 2:7] = 1
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(find_outlines(labels, thickness_px=1) > 0, expected)


def test_touching_nuclei_have_an_outline_each() -> None:
    labels = np.zeros((12, 22), np.int32)
    labels[1:11, 1:11] = 1
    labels[1:11, 11:21] = 2
    outline = find_outlines(labels, thickness_px=1) > 0
    for label in (1, 2):
        inside = (labels == label) & ~outline
        # Taking the outline away leaves one piece, wholly surrounded by its own outline.
        pieces, _ = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
        assert pieces == 2
        assert int(inside.sum()) == 8 * 8
    count, _ = cv2.connectedComponents((~outline & (labels > 0)).astype(np.uint8), connectivity=4)
    assert count - 1 == 2


@pytest.mark.parametrize("thickness_px", [1, 2, 3])
def test_only_nuclei_are_painted(
    thickness_px: int, he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    before = he_pixels.copy()
    drawn = draw_overlay(he_pixels, he_labels, thickness_px=thickness_px)
    assert np.array_equal(he_pixels, before)
    assert drawn.shape == he_pixels.shape
    assert drawn.dtype == np.uint8
    outline = find_outlines(he_labels, thickness_px=thickness_px) > 0
    assert np.array_equal(drawn[~outline], he_pixels[~outline])
    assert (drawn[outline] == DEFAULT_COLOUR).all()
    assert not (outline & (he_labels == 0)).any()
    painted = np.unique(he_labels[outline])
    assert np.array_equal(painted, np.unique(he_labels)[1:])


def test_thicker_outlines_hold_thinner_ones(he_labels: NDArray[np.int32]) -> None:
    thin = find_outlines(he_labels, thickness_px=1) > 0
    thick = find_outlines(he_labels, thickness_px=2) > 0
    assert (thick >= thin).all()
    assert thick.sum() > 1.5 * thin.sum()


def test_labels_beyond_16_bits_are_told_apart() -> None:
    labels = np.zeros((8, 16), np.int32)
    labels[:, :8], labels[:, 8:] = 70_000, 70_001
    outline = find_outlines(labels, thickness_px=1) > 0
    assert outline[:, 7:9].all()
    assert outline.sum() == 16


def test_encoded_in_the_colour_asked_for(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    data = encode_overlay(he_pixels, he_labels, colour=(255, 230, 0), thickness_px=1)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    expected = draw_overlay(he_pixels, he_labels, colour=(255, 230, 0), thickness_px=1)
    assert np.array_equal(image[..., ::-1], expected)
