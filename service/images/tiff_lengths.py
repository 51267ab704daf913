"""Whether LZW and PackBits data of a TIFF gives every pixel of its strip or tile.

libtiff's RGBA interface, through which OpenCV reads 8 bits, leaves what is missing black and says
nothing. Here nothing is decoded; only lengths are followed.

Source: TIFF 6.0 (Adobe, 1992), sections 9 (PackBits) and 13 (LZW).
"""

from collections.abc import Iterator

from service.errors import UnreadableImageError
from service.images.tiff import LZW, PACK_BITS, TiffPage

_CLEAR, _END = 256, 257
_LEAST_BITS, _MOST_BITS = 9, 12


def check_lengths(data: bytes, page: TiffPage) -> None:
    """Refuse a page with a strip or tile that gives too few bytes.

    Raises:
        UnreadableImageError: Some pixels are missing.
    """
    gives = {LZW: _lzw_gives, PACK_BITS: _pack_bits_gives}[page.compression]
    segments = zip(page.offsets.tolist(), page.byte_counts.tolist(), strict=True)
    for (offset, count), expected in zip(segments, _plain_bytes(page), strict=True):
        if not gives(data[offset : offset + count], expected):
            raise UnreadableImageError("the TIFF image is truncated: a strip is too short")


def _plain_bytes(page: TiffPage) -> Iterator[int]:
    """Give the bytes that each segment inflates to, in the order of the file."""
    planes = page.samples if page.planar else 1
    row_bytes = page.segment_width_px * (page.samples // planes) * page.stored_type.itemsize
    across = -(-page.width_px // page.segment_width_px)
    for _ in range(planes):
        for y in range(0, page.height_px, page.segment_height_px):
            inside = min(page.segment_height_px, page.height_px - y)
            for _ in range(across):
                yield row_bytes * (page.segment_height_px if page.tiled else inside)


def _lzw_gives(stored: bytes, expected: int) -> bool:
    """Whether LZW data inflates to at least `expected` bytes."""
    if stored[:2] == b"\0\1":
        return True  # codes from the low bit up, of before 1988, are not followed
    # Every encoder in use writes its end mark; to count what lies before it would take as long in
    # Python as all of the decoding in C.
    return _ends_with_mark(stored) or _lzw_length(stored, expected) >= expected


def _ends_with_mark(stored: bytes) -> bool:
    """Whether the last code is the end, but for less than a byte of zeros, or one byte more."""
    for tail in (stored[-3:], stored[-4:-1] if stored[-1:] == b"\0" else b""):
        last = int.from_bytes(tail, "big")
        for padding in range(8):
            code = last >> padding
            if code << padding == last and any(
                code & (1 << bits) - 1 == _END for bits in range(_LEAST_BITS, _MOST_BITS + 1)
            ):
                return True
    return False


def _lzw_length(stored: bytes, expected: int) -> int:
    """Follow the codes up to `expected` bytes; give the bytes that they stand for."""
    length_of = [1] * (_END + 1)
    total = previous = held = held_bits = 0
    bits = _LEAST_BITS
    for byte in stored:
        held, held_bits = held << 8 | byte, held_bits + 8
        if held_bits < bits:
            continue
        held_bits -= bits
        code, held = held >> held_bits, held & (1 << held_bits) - 1
        if code == _END:
            break
        if code == _CLEAR:
            del length_of[_END + 1 :]
            bits, previous = _LEAST_BITS, 0
            continue
        if previous:
            length_of.append(previous + 1)
        if code >= len(length_of):
            break
        previous = length_of[code]
        total += previous
        # Widened one code early, by specification.
        if len(length_of) == (1 << bits) - 1 and bits < _MOST_BITS:
            bits += 1
        if total >= expected:
            break
    return total


def _pack_bits_gives(stored: bytes, expected: int) -> bool:
    """Whether PackBits data inflates to at least `expected` bytes."""
    total = position = 0
    while total < expected and position + 1 < len(stored):
        head = stored[position]
        if head < 128:
            total += min(head + 1, len(stored) - position - 1)
            position += head + 2
        elif head > 128:
            total += 257 - head
            position += 2
        else:
            position += 1
    return total >= expected
