"""Tags of TIFF directories, as used by TIFF files and by EXIF blocks; bounded by the bytes there.

Source: TIFF 6.0 (Adobe, 1992), section 2; BigTIFF (Aware Systems). Written here rather than taken
from tifffile because it reads hostile bytes before anything has been checked: it never allocates
more than the file holds, never follows a loop, never logs, and raises one thing.

    header:     II 42 offset      (BigTIFF: II 43 8 0 offset)
    directory:  count | tag type count value-or-offset | ... | next
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_INTEGER_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}
_MAX_DIRECTORIES = 10_000
_MAX_TAGS = 4_096
# More values of one tag than any page needs: one for each of its strips or tiles.
_MAX_VALUES = 131_072


class TagError(ValueError):
    """The tags cannot be read: damaged, cut off, or no TIFF at all."""


@dataclass(frozen=True)
class Tag:
    """Where one tag's values lie.

    Attributes:
        kind: TIFF field type number.
        count: Number of values.
        offset: Position of the first value in the data.
    """

    kind: int
    count: int
    offset: int


@dataclass(frozen=True)
class Directory:
    """One directory (a page of a TIFF) with typed access to its tags."""

    data: bytes
    byte_order: str
    tags: Mapping[int, Tag]
    next_offset: int

    def integers(self, number: int) -> NDArray[np.uint64] | None:
        """Give the values of an unsigned integer tag, or None where it is absent.

        Values beyond the first 131,072 are left out: no page needs them, and a hostile tag has as
        many as the file has bytes.

        Raises:
            TagError: The tag is of another type.
        """
        tag = self.tags.get(number)
        if tag is None:
            return None
        if tag.kind not in _INTEGER_TYPES:
            raise TagError(f"tag {number} is not an unsigned integer")
        stored = np.dtype(self.byte_order + _INTEGER_TYPES[tag.kind])
        count = min(tag.count, _MAX_VALUES)
        return np.frombuffer(self.data, stored, count, tag.offset).astype(np.uint64)

    def integer(self, number: int, default: int) -> int:
        """Give the first value of an unsigned integer tag, or the default where it is absent.

        Raises:
            TagError: The tag is of another type or empty.
        """
        values = self.integers(number)
        if values is None:
            return default
        if values.size == 0:
            raise TagError(f"tag {number} is empty")
        return int(values[0])

    def hints(self, number: int) -> NDArray[np.uint64]:
        """Give the values of a tag that describes and decides no pixel's place.

        None of another type is worth refusing an image for: they count as absent.
        """
        try:
            values = self.integers(number)
        except TagError:
            values = None
        return np.empty(0, np.uint64) if values is None else values

    def rational(self, number: int) -> float | None:
        """Give the first value of an unsigned rational tag; None if absent or divided by zero."""
        tag = self.tags.get(number)
        if tag is None or tag.kind != 5 or tag.count < 1:
            return None
        numerator, denominator = struct.unpack_from(self.byte_order + "II", self.data, tag.offset)
        return numerator / denominator if denominator else None

    def raw(self, number: int) -> bytes | None:
        """Give the bytes of a tag of one-byte values; None if absent or of another type."""
        tag = self.tags.get(number)
        if tag is None or tag.kind not in {1, 2, 7}:
            return None
        return self.data[tag.offset : tag.offset + tag.count]


def _unpack(layout: str, data: bytes, offset: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, offset)
    except (struct.error, OverflowError) as error:
        raise TagError("the tags are cut off") from error


def read_directory(data: bytes, offset: int, byte_order: str, *, big: bool) -> Directory:
    """Read the directory at an offset; tags whose values lie outside the data are refused.

    Raises:
        TagError: It is cut off or malformed.
    """
    entry_layout, inline = ("HHQ", 8) if big else ("HHI", 4)
    entries, following = _outline(data, offset, byte_order, big=big)
    entry_bytes = entries.step
    tags: dict[int, Tag] = {}
    for position in entries:
        number, kind, values = _unpack(byte_order + entry_layout, data, position)
        if kind not in _TYPE_BYTES:
            continue  # the specification asks readers to skip types they do not know
        value_at = position + entry_bytes - inline
        if values * _TYPE_BYTES[kind] > inline:
            (value_at,) = _unpack(byte_order + ("Q" if big else "I"), data, value_at)
        if value_at + values * _TYPE_BYTES[kind] > len(data):
            raise TagError("a tag points past the end of the data")
        tags.setdefault(number, Tag(kind, values, value_at))
    return Directory(data, byte_order, tags, following)


def _outline(data: bytes, offset: int, byte_order: str, *, big: bool) -> tuple[range, int]:
    """Return where the entries of a directory lie, and the offset of the next directory."""
    count_layout, entry_bytes = ("Q", 20) if big else ("H", 12)
    (count,) = _unpack(byte_order + count_layout, data, offset)
    if count == 0 or count > _MAX_TAGS:
        raise TagError("a directory holds no or absurdly many tags")
    start = offset + struct.calcsize("=" + count_layout)
    end = start + count * entry_bytes
    (following,) = _unpack(byte_order + ("Q" if big else "I"), data, end)
    return range(start, end, entry_bytes), following


def read_first_directory(data: bytes) -> tuple[Directory, bool]:
    """Read the first directory of a TIFF file or EXIF block.

    Returns:
        The directory, and whether the file is a BigTIFF.

    Raises:
        TagError: It is no TIFF, cut off or malformed.
    """
    byte_order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if byte_order is None:
        raise TagError("no TIFF byte order mark")
    (magic,) = _unpack(byte_order + "H", data, 2)
    if magic == 42:
        (offset,) = _unpack(byte_order + "I", data, 4)
        return read_directory(data, offset, byte_order, big=False), False
    if magic == 43:
        offset_bytes, zero, offset = _unpack(byte_order + "HHQ", data, 4)
        if (offset_bytes, zero) != (8, 0):
            raise TagError("a BigTIFF header that is not of 8-byte offsets")
        return read_directory(data, offset, byte_order, big=True), True
    raise TagError("no TIFF magic number")


def count_directories(first: Directory, *, big: bool) -> int:
    """Count the pages of a TIFF; damage after the first page ends the count, it is not an error."""
    seen: set[int] = set()
    offset = first.next_offset
    while offset and offset not in seen and len(seen) < _MAX_DIRECTORIES:
        try:
            # The tags of later pages are not looked at: millions fit into a hostile file.
            _, following = _outline(first.data, offset, first.byte_order, big=big)
        except TagError:
            break
        seen.add(offset)
        offset = following
    return 1 + len(seen)
