"""Masks as run lengths, in COCO's uncompressed form.

Source: COCO API, `mask.py`: column by column, runs of 0 and 1 in turn, the first run of 0 (and 0
long where the mask begins with 1).

    mask  0 1 0     columns 0 0, 1 1, 0 1     counts [2, 2, 1, 1]
          0 1 1
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray


class RunLengths(TypedDict):
    """A binary mask as run lengths.

    Attributes:
        size: Height and width in px.
        counts: Lengths of the runs, column-major, beginning with background.
    """

    size: list[int]
    counts: list[int]


def encode_rle(mask: NDArray[Any]) -> RunLengths:
    """Encode a binary mask (H, W); every value but 0 belongs to it."""
    height, width = mask.shape
    flat = np.asarray(mask != 0).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    counts = np.diff(edges).tolist() if flat.size else []
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": [height, width], "counts": counts}


def encode_label_rles(labels: NDArray[np.integer[Any]]) -> list[RunLengths]:
    """Encode the mask of each nucleus, in one pass over the image.

    Args:
        labels: (H, W), 0 background, 1 to n.

    Returns:
        n encoded masks in the order of the labels; a label that is not there is an empty mask.
    """
    height, width = labels.shape
    count = int(labels.max(initial=0))
    flat = labels.ravel(order="F")
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    values = flat[edges[:-1]] if flat.size else flat
    kept = np.flatnonzero(values > 0)
    order = kept[np.argsort(values[kept], kind="stable")]
    starts, ends, owners = edges[order], edges[order + 1], values[order]
    first = np.searchsorted(owners, np.arange(1, count + 2))
    encoded: list[RunLengths] = []
    for label in range(count):
        runs = slice(first[label], first[label + 1])
        bounds = np.empty(2 * (runs.stop - runs.start) + 2, np.int64)
        bounds[0], bounds[-1] = 0, flat.size
        bounds[1:-1:2], bounds[2:-1:2] = starts[runs], ends[runs]
        counts = np.diff(bounds).tolist()
        if len(counts) > 1 and counts[-1] == 0:
            counts.pop()
        encoded.append({"size": [height, width], "counts": counts})
    return encoded


def decode_rle(size: Sequence[int], counts: Sequence[int]) -> NDArray[np.bool_]:
    """Decode run lengths into a mask (H, W).

    Raises:
        ValueError: The runs do not add up to the size.
    """
    height, width = size
    if sum(counts) != height * width:
        raise ValueError("the run lengths do not add up to the size of the mask")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")
