"""Orientation tags: which way up a camera held the image.

Source: EXIF 2.32 and TIFF 6.0, tag 274. The stored first row and column are, upright:

    1 top, left     2 top, right     3 bottom, right  4 bottom, left
    5 left, top     6 right, top     7 right, bottom  8 left, bottom
"""

import numpy as np
from numpy.typing import NDArray

from service.images.ifd import Directory, TagError, read_first_directory
from service.images.image import Scale
from service.images.scale import scale_from_tags


def orientation_of(directory: Directory) -> int:
    """Give the orientation 1 to 8; values outside count as upright."""
    values = directory.hints(274)
    return int(values[0]) if values.size and 1 <= values[0] <= 8 else 1


def read_exif(block: bytes | None) -> tuple[int, Scale]:
    """Read orientation and scale of an EXIF block; a damaged block counts as none.

    Args:
        block: A TIFF structure, with or without the leading `Exif` mark; None where there is none.
    """
    if block is None:
        return 1, Scale()
    try:
        directory, _ = read_first_directory(block.removeprefix(b"Exif\0\0"))
        return orientation_of(directory), scale_from_tags(directory, "exif_resolution")
    except TagError:
        return 1, Scale()


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror stored pixels upright.

    Args:
        pixels: (H, W, 3) as stored.
        orientation: 1 to 8.

    Returns:
        C-contiguous (H, W, 3), or (W, H, 3) for orientations 5 to 8.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
