"""Labels that a reviewer drew: from PNG or run lengths to the 16-bit PNG that is kept."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidParameterError, UnreadableImageError, UnsupportedImageError
from service.images import png
from service.outputs.png import GREATEST_LABEL, encode_labels


def _refuse(message: str) -> InvalidParameterError:
    return InvalidParameterError(message, parameter="labels", place="body")


def labels_from_png(data: str, width_px: int, height_px: int) -> NDArray[np.int32]:
    """Decode base64 of a grey PNG, 8 or 16 bit, whose values number the nuclei.

    Args:
        data: The file in base64.
        width_px: Width that it must have.
        height_px: Height that it must have.

    Returns:
        Labels, shape (H, W), int32, 0 background.

    Raises:
        InvalidParameterError: It is no such file, or of another size.
    """
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:  # also of characters beyond ASCII, which are no binascii.Error
        raise _refuse("labels are no PNG file in base64") from error
    try:
        if png.read_dimensions(content) != (width_px, height_px):
            raise _refuse(f"labels must have the image's size, {width_px} x {height_px} px")
        samples = png.decode(content).samples
    except (UnreadableImageError, UnsupportedImageError) as error:
        raise _refuse("labels are no PNG file in base64") from error
    if samples.ndim != 2:
        raise _refuse("labels must be a grey PNG without alpha; colours number no nuclei")
    return samples.astype(np.int32)


def labels_from_runs(
    nuclei: Sequence[tuple[tuple[int, int], Sequence[int]]], width_px: int, height_px: int
) -> NDArray[np.int32]:
    """Paint nuclei that are given as COCO run lengths, each into what the others leave free.

    Args:
        nuclei: Size (height, width) and counts of each; see `service.outputs.rle`.
        width_px: Width of the image.
        height_px: Height of the image.

    Returns:
        Labels, shape (H, W), int32, 0 background.

    Raises:
        InvalidParameterError: The runs do not fill the image, a nucleus has no pixel, or nuclei
            overlap.
    """
    flat = np.zeros(height_px * width_px, np.int32)
    for number, (size, counts) in enumerate(nuclei, start=1):
        if tuple(size) != (height_px, width_px) or sum(counts) != flat.size:
            raise _refuse(f"the runs of nucleus {number} do not fill {width_px} x {height_px} px")
        if min(counts) < 0:
            raise _refuse(f"the runs of nucleus {number} hold a negative length")
        if not any(counts[1::2]):
            # It would vanish from the count, and with it what the reviewer meant by it.
            raise _refuse(f"nucleus {number} has no pixel")
        edges = np.cumsum([0, *counts])
        for start, end in zip(edges[1::2], edges[2::2], strict=False):
            if flat[start:end].any():
                raise _refuse(f"nucleus {number} overlaps another; a pixel belongs to one")
            flat[start:end] = number
    return flat.reshape((height_px, width_px), order="F")


def number_and_encode(labels: NDArray[np.int32]) -> tuple[int, bytes]:
    """Number the nuclei 1..n in the order of their labels.

    Returns:
        n, and the labels as a 16-bit PNG.

    Raises:
        InvalidParameterError: More nuclei than a 16-bit PNG can number.
    """
    values: NDArray[Any]
    values, numbers = np.unique(labels, return_inverse=True)
    if values[0] != 0:
        numbers = numbers + 1
    count = int(numbers.max())
    if count > GREATEST_LABEL:
        raise _refuse(f"there are {count} nuclei; a 16-bit PNG numbers {GREATEST_LABEL}")
    return count, encode_labels(numbers.reshape(labels.shape).astype(np.int32))
