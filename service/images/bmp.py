"""BMP: read here, because its pixels are plain bytes.

Source: Windows GDI documentation, BITMAPINFOHEADER to BITMAPV5HEADER, and the OS/2 core header.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableImageError, UnsupportedImageError
from service.images.image import Alpha, Scale, StoredImage
from service.images.scale import UM_PER_M, scale_from_resolution

SIGNATURE = b"BM"
_HEADER_BYTES = {12, 40, 52, 56, 64, 108, 124}
_PLAIN, _BIT_FIELDS = 0, 3
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)
_ALPHA_MASK = 0xFF000000


@dataclass(frozen=True)
class _Bitmap:
    width_px: int
    height_px: int  # negative: rows stored from the top
    bits: int
    compression: int
    pixels_at: int
    palette_at: int
    palette_entry_bytes: int
    alpha: bool
    scale: Scale


def read_dimensions(data: bytes) -> tuple[int, int]:
    """Read width and height in px.

    Raises:
        UnreadableImageError: The header is cut off or no BMP's.
    """
    bitmap = _read_header(data)
    return bitmap.width_px, abs(bitmap.height_px)


def decode(data: bytes) -> StoredImage:
    """Decode a BMP whose dimensions have been found within bounds.

    Raises:
        UnreadableImageError: It is truncated.
        UnsupportedImageError: It is run-length coded or of 1, 4 or 16 bits a pixel.
    """
    bitmap = _read_header(data)
    if bitmap.bits not in {8, 24, 32} or bitmap.compression not in {_PLAIN, _BIT_FIELDS}:
        raise UnsupportedImageError(
            "only uncompressed BMP of 8, 24 or 32 bits a pixel is read; save as PNG"
        )
    width, height = bitmap.width_px, abs(bitmap.height_px)
    sample_bytes = bitmap.bits // 8
    stride = (width * sample_bytes + 3) & ~3
    if bitmap.pixels_at + stride * height > len(data):
        raise UnreadableImageError("the BMP image is truncated")
    rows: NDArray[Any] = np.frombuffer(data, np.uint8, stride * height, bitmap.pixels_at)
    rows = rows.reshape(height, stride)[:, : width * sample_bytes]
    if bitmap.height_px > 0:
        rows = rows[::-1]
    notes: tuple[str, ...] = ()
    alpha: Alpha = "none"
    if bitmap.bits == 8:
        samples = _palette(data, bitmap)[rows]
        notes = ("palette expanded to RGB",)
    else:
        stored = rows.reshape(height, width, sample_bytes)
        alpha = "straight" if bitmap.alpha else "none"
        samples = stored[..., (2, 1, 0, 3) if bitmap.alpha else (2, 1, 0)]
    return StoredImage(samples=samples, colour="rgb", alpha=alpha, scale=bitmap.scale, notes=notes)


def _read_header(data: bytes) -> _Bitmap:
    if len(data) < 26:
        raise UnreadableImageError("the BMP image is truncated in its header")
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes not in _HEADER_BYTES or 14 + header_bytes > len(data):
        raise UnreadableImageError("the bytes begin like a BMP image but have no header of one")
    if header_bytes == 12:
        width, height, planes, bits = struct.unpack_from("<HHHH", data, 18)
        compression, scale = _PLAIN, Scale()
    else:
        width, height, planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        x, y = struct.unpack_from("<ii", data, 38)
        scale = scale_from_resolution(max(x, 0), max(y, 0), UM_PER_M, "bmp_resolution")
    if width <= 0 or height in {0, -(1 << 31)} or planes != 1:
        raise UnreadableImageError("the BMP header tells an impossible size")
    alpha = False
    masks_bytes = 0
    if compression == _BIT_FIELDS and bits == 32:
        # Without a V2+ header the three masks stand behind it, at the same place in the file.
        masks_bytes = 12 if header_bytes == 40 else 0
        if len(data) < 66 or struct.unpack_from("<III", data, 54) != _BGR_MASKS:
            raise UnsupportedImageError("a BMP of unusual channel masks is not read; save as PNG")
        # struct: V3 and later headers carry an alpha mask behind the three colour masks.
        alpha = header_bytes >= 56 and struct.unpack_from("<I", data, 66) == (_ALPHA_MASK,)
    return _Bitmap(
        width,
        height,
        bits,
        compression,
        pixels_at,
        14 + header_bytes + masks_bytes,
        3 if header_bytes == 12 else 4,
        alpha,
        scale,
    )


def _palette(data: bytes, bitmap: _Bitmap) -> NDArray[np.uint8]:
    """Read up to 256 colours as RGB, (256, 3); colours the file does not have are black."""
    size = bitmap.palette_entry_bytes
    available = min(bitmap.pixels_at, len(data)) - bitmap.palette_at
    entries = max(0, min(256, available // size))
    colours = np.zeros((256, 3), np.uint8)
    stored = np.frombuffer(data, np.uint8, entries * size, bitmap.palette_at if entries else 0)
    colours[:entries] = stored.reshape(entries, size)[:, 2::-1]
    return colours
