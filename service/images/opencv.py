"""OpenCV's decoders behind one guarded call."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableImageError

# OpenCV writes every damaged upload to stderr, past the service's structured log. The caller is
# told in the response; the level is one for the whole process, so it is set once, here.
# OpenCV 5 has the function in a module of its own, OpenCV 4 does not. 0 is silent in both.
getattr(cv2.utils, "logging", cv2).setLogLevel(0)

_CHANNEL_ORDER = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}


def decode_with_opencv(
    data: bytes, *, width_px: int, height_px: int, kind: str, flags: int = cv2.IMREAD_UNCHANGED
) -> NDArray[Any]:
    """Decode an image whose header has been checked.

    Args:
        data: The encoded image.
        width_px: Width that the header told.
        height_px: Height that the header told.
        kind: Name of the format, for messages.
        flags: OpenCV's `IMREAD_*`; orientation tags are never applied here.

    Returns:
        (H, W) or (H, W, 3 or 4) in the order R, G, B, A, of the stored sample type.

    Raises:
        UnreadableImageError: The decoder fails, or gives another size than the header told.
    """
    if flags != cv2.IMREAD_UNCHANGED:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableImageError(f"the {kind} image is damaged and cannot be decoded") from error
    if decoded is None:
        raise UnreadableImageError(f"the {kind} image is damaged or truncated")
    if decoded.shape[:2] != (height_px, width_px):
        raise UnreadableImageError(
            f"the {kind} header tells {width_px} x {height_px} px but its data holds "
            f"{decoded.shape[1]} x {decoded.shape[0]} px"
        )
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    if decoded.dtype == np.float64 and channels in _CHANNEL_ORDER:
        # OpenCV reads 64-bit floats and does not reorder them.
        return decoded[..., (2, 1, 0, 3)[:channels]]
    if channels in _CHANNEL_ORDER:
        cv2.cvtColor(decoded, _CHANNEL_ORDER[channels], dst=decoded)
    return decoded
