r"""SHA-256 digests of pixels and labels that anyone can compute again, in any language.

One line of ASCII says what follows, how high and how wide; the values follow row by row. The same
bytes in another shape therefore have another digest.

    pixels   "RGB8 <height> <width>\n", then 3 bytes a pixel
    labels   "INT32LE <height> <width>\n", then 4 bytes a pixel, least significant first
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def digest_pixels(pixels: NDArray[np.uint8]) -> str:
    """Return the digest of an RGB image (H, W, 3), uint8, in hexadecimal."""
    return _digest("RGB8", np.ascontiguousarray(pixels))


def digest_labels(labels: NDArray[np.integer[Any]]) -> str:
    """Return the digest of labels (H, W), 0 background, 1 to n, in hexadecimal."""
    return _digest("INT32LE", np.ascontiguousarray(labels, dtype="<i4"))


def _digest(kind: str, array: NDArray[Any]) -> str:
    height, width = array.shape[:2]
    digest = hashlib.sha256(f"{kind} {height} {width}\n".encode("ascii"))
    digest.update(array.data)
    return digest.hexdigest()
