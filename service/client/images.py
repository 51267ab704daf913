"""What a caller has of an image, as bytes to send; pixels become a lossless PNG."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8]
"""A file's path, a file's bytes, or decoded pixels: (H, W, 3) RGB or (H, W) grey, uint8."""

_GREY: Final = 0
_RGB: Final = 2
_COLOUR_CHANNELS: Final = 3
_MOST_LABELS: Final = 65_535


def to_image_bytes(image: ImageSource) -> bytes:
    """Return the bytes of an image file.

    Raises:
        TypeError: It is none of these; the message says how to mend it.
        ValueError: An array has another shape or dtype; the message says how to mend it.
        OSError: The file cannot be read.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image is a path, the bytes of a file, or a NumPy array, this is a {type(image)};"
            " of an open file give file.read(), of a PIL image numpy.asarray(image.convert('RGB'))"
        )
    if image.dtype != np.uint8:
        raise ValueError(
            f"pixels must be uint8, these are {image.dtype}; scale them to 0..255 and convert:"
            " (image * 255).astype(np.uint8) where they lie in 0..1"
        )
    grey = image.ndim == 2
    if not grey and (image.ndim != 3 or image.shape[2] != _COLOUR_CHANNELS):
        raise ValueError(
            f"pixels must be (height, width, 3) RGB or (height, width) grey, these are"
            f" {image.shape}; drop alpha with image[..., :3]"
        )
    return _png(image, bits=8, colour=_GREY if grey else _RGB)


def labels_to_png(labels: NDArray[Any]) -> bytes:
    """Return labelled nuclei, shape (H, W), 0 background, as a 16-bit grey PNG.

    Raises:
        ValueError: It is no plane of whole numbers from 0 to 65,535.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole numbers of shape (height, width), these are {labels.dtype} of"
            f" shape {labels.shape}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= _MOST_LABELS:
        raise ValueError("labels must lie between 0 (background) and 65535")
    return _png(labels.astype(">u2"), bits=16, colour=_GREY)


def _png(pixels: NDArray[Any], *, bits: int, colour: int) -> bytes:
    height, width = pixels.shape[:2]
    if not pixels.size:
        raise ValueError(f"an image of shape {pixels.shape} has no pixels")
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    # Each row begins with its filter; none, for speed: the service is usually near.
    filtered = np.pad(rows, ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(filtered.tobytes(), level=1)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
