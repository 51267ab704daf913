"""TIFF strips that do not hold what the header says: refused, and no gap filled by anything."""

import struct
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.ifd import read_first_directory


def test_absurd_strip_counts_are_refused(encoders: Any) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    data = bytearray(encoders.tiff(pixels, rowsperstrip=16))
    for tag, value in ((257, 200_000), (278, 1)):
        at = data.index(struct.pack("<H", tag), 8)
        data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
    with pytest.raises(UnsupportedImageError, match="strips or tiles"):
        encoders.decode(bytes(data))
    at = data.index(struct.pack("<H", 257), 8)
    data[at + 8 : at + 12] = struct.pack("<I", 100_000)
    with pytest.raises(UnreadableImageError, match="where all its pixels are"):
        encoders.decode(bytes(data))


def test_strips_past_the_end_are_refused_though_libtiff_would_fill_them(
    samples_of_each_kind: dict[str, bytes], encoders: Any
) -> None:
    data = bytearray(samples_of_each_kind["tiff_lzw"])
    at = data.index(struct.pack("<HHII", 273, 4, 1, 8)[:4], data.index(b"II") + 4)
    (count,) = struct.unpack_from("<I", data, at + 4)
    offset = at + 8 if count == 1 else struct.unpack_from("<I", data, at + 8)[0]
    struct.pack_into("<I", data, offset + 4 * (count - 1), len(data) - 2)
    with pytest.raises(UnreadableImageError, match="past the end"):
        encoders.decode(bytes(data))


@pytest.mark.parametrize("kind", ["tiff_strips", "tiff_lzw", "tiff_packbits"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_strip_that_says_itself_to_be_short_is_refused(
    kind: str, part: float, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    """As a writer leaves it that was interrupted within a strip, and closed the file."""
    if kind == "tiff_strips":
        data = bytearray(encoders.tiff(rgb, rowsperstrip=9))
    else:
        number = {"tiff_lzw": 5, "tiff_packbits": 32773}[kind]
        data = bytearray(encoders.opencv(".tif", rgb, cv2.IMWRITE_TIFF_COMPRESSION, number))
    order = "<" if data[:2] == b"II" else ">"
    directory, _ = read_first_directory(bytes(data))
    tag = directory.tags[279]
    width = {3: "H", 4: "I"}[tag.kind]
    last = tag.offset + (tag.count - 1) * struct.calcsize(width)
    (stored,) = struct.unpack_from(order + width, data, last)
    struct.pack_into(order + width, data, last, int(stored * part))
    with pytest.raises(UnreadableImageError, match="truncated"):
        encoders.decode(bytes(data))


def test_lzw_without_an_end_mark_is_read_where_it_is_whole(
    rgb: NDArray[np.uint8], encoders: Any
) -> None:
    """Whole strips may be followed by anything, or lack the end mark: their length is counted."""
    data = bytearray(encoders.opencv(".tif", rgb, cv2.IMWRITE_TIFF_COMPRESSION, 5))
    directory, _ = read_first_directory(bytes(data))
    tag = directory.tags[279]
    layout = {3: "H", 4: "I"}[tag.kind]
    for number in range(tag.count - 1):
        at = tag.offset + number * struct.calcsize(layout)
        (stored,) = struct.unpack_from("<" + layout, data, at)
        struct.pack_into("<" + layout, data, at, stored + 5)
    assert tag.count > 1
    assert np.array_equal(encoders.decode(bytes(data)).pixels, rgb)
