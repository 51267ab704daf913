"""Run lengths are COCO's, and give the mask back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from service.outputs.rle import decode_rle, encode_label_rles, encode_rle


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        # As pycocotools' frUncompressedRLE reads them: column by column, background first.
        ([[0, 1, 0], [0, 1, 1]], [2, 2, 1, 1]),
        ([[1, 0], [1, 0]], [0, 2, 2]),
        ([[0, 0], [0, 1]], [3, 1]),
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
    ],
)
def test_known_masks(mask: list[list[int]], counts: list[int]) -> None:
    assert encode_rle(np.array(mask)) == {"size": [2, len(mask[0])], "counts": counts}


masks = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)
)


@given(masks)
@settings(max_examples=200, deadline=None)
def test_decoding_gives_the_mask_back(mask: NDArray[np.uint8]) -> None:
    encoded = encode_rle(mask)
    assert sum(encoded["counts"]) == mask.size
    assert all(count > 0 for count in encoded["counts"][1:])
    assert np.array_equal(decode_rle(encoded["size"], encoded["counts"]), mask == 1)


labellings = arrays.arrays(
    np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)
)


@given(labellings)
@settings(max_examples=200, deadline=None)
def test_all_labels_at_once_as_each_alone(labels: NDArray[np.int32]) -> None:
    encoded = encode_label_rles(labels)
    assert encoded == [encode_rle(labels == label) for label in range(1, int(labels.max()) + 1)]


def test_real_nuclei(he_labels: NDArray[np.int32]) -> None:
    encoded = encode_label_rles(he_labels)
    assert len(encoded) == int(he_labels.max())
    union = np.zeros(he_labels.shape, np.int32)
    for label, lengths in enumerate(encoded, start=1):
        union[decode_rle(lengths["size"], lengths["counts"])] = label
    assert np.array_equal(union, he_labels)


def test_counts_are_plain_integers(he_labels: NDArray[np.int32]) -> None:
    lengths = encode_rle(he_labels > 0)
    assert {type(count) for count in lengths["counts"]} == {int}
    assert {type(side) for side in lengths["size"]} == {int}


def test_runs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        decode_rle([2, 2], [1, 2])
