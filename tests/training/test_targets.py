import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.targets import distance_map, make_targets, split_touching


def two_touching_discs() -> np.ndarray:
    labels = np.zeros((40, 60), np.int32)
    left, right = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    cv2.circle(left, (20, 20), 10, 1, -1)
    cv2.circle(right, (38, 20), 10, 1, -1)
    labels[left > 0] = 1
    labels[(right > 0) & (labels == 0)] = 2
    return labels


def test_each_nucleus_peaks_at_one_whatever_its_size() -> None:
    labels = two_touching_discs()
    labels[1:4, 1:4] = 3
    distance = distance_map(labels)
    for nucleus in (1, 2, 3):
        assert distance[labels == nucleus].max() == pytest.approx(1)
    assert (distance[labels == 0] == 0).all()
    assert (distance[labels > 0] > 0).all()


def test_the_distance_of_a_disc_is_its_distance_to_the_edge() -> None:
    mask = np.zeros((61, 61), np.uint8)
    cv2.circle(mask, (30, 30), 20, 1, -1)
    distance = distance_map(mask.astype(np.int32))
    radius = np.hypot(*np.mgrid[-30:31, -30:31])
    expected = np.clip((21 - radius) / 21, 0, 1)
    assert np.abs(distance - expected)[mask > 0].max() < 0.06


def test_touching_nuclei_have_a_valley_between_them() -> None:
    labels = two_touching_discs()
    distance = distance_map(labels)
    assert distance[20, 20] > 0.9
    assert distance[20, 38] > 0.8
    assert distance[20, 29:33].min() < 0.2


def test_components_of_the_split_mask_are_the_nuclei() -> None:
    count, _ = cv2.connectedComponents(split_touching(two_touching_discs()), connectivity=8)
    assert count - 1 == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_labels_give_values_in_range_and_split_diagonal_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 7], size=(16, 16)).astype(np.int32)
    targets = make_targets(labels, 2)
    assert targets.shape == (16, 16, 2)
    assert ((targets[..., 0] > 0) == (labels > 0)).all()
    split = split_touching(labels)
    _, components = cv2.connectedComponents(split, connectivity=8)
    for component in range(1, components.max() + 1):
        assert len(np.unique(labels[components == component])) == 1


def test_an_empty_image_has_empty_targets() -> None:
    assert not make_targets(np.zeros((32, 32), np.int32), 2).any()
    assert make_targets(np.zeros((32, 32), np.int32), 1).shape == (32, 32, 1)
