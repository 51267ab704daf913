"""Stored samples of any depth and colour -> RGB of 8 bits, with a note on every decision."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import UnsupportedImageError
from service.images.image import StoredImage

GRAY_NOTE = "grayscale replicated to RGB"
ALPHA_NOTE = "alpha composited on white"
OPAQUE_NOTE = "opaque alpha channel dropped"
EXTRA_NOTE = "extra channel that is not transparency dropped"
CMYK_NOTE = "CMYK converted to RGB without colour management"
FULL_16_BIT_NOTE = "16-bit samples divided by 257"
FLOAT_NOTE = "floating-point samples 0..1 multiplied by 255"

_COLOUR_CHANNELS = {"gray": 1, "rgb": 3, "cmyk": 4}
_ODD_DEPTHS = (8, 10, 12, 14)  # of cameras that write them low-justified into 16 bits
_FLOAT_SLACK = 1e-3


def to_rgb(stored: StoredImage) -> tuple[NDArray[np.uint8], list[str]]:
    """Convert stored samples to RGB.

    Returns:
        Pixels (H, W, 3), uint8, as stored (not turned), and notes on the decisions taken.

    Raises:
        UnsupportedImageError: Floating-point samples outside 0..1.
    """
    height, width = stored.samples.shape[:2]
    samples = np.ascontiguousarray(stored.samples).reshape(height, width, -1)
    colours = _COLOUR_CHANNELS[stored.colour]
    # Of light the greatest value is that of empty glass; of ink it is that of the darkest spot, and
    # tells nothing of the depth.
    depth = 16 if stored.colour == "cmyk" else None
    eight, notes = _to_eight_bit(samples, colours, stored.declared_max, depth)
    colour = eight[..., :colours]
    if stored.colour == "gray":
        rgb = np.repeat(colour, 3, axis=2)
        notes.append(GRAY_NOTE)
    elif stored.colour == "cmyk":
        rgb = _cmyk_to_rgb(colour)
        notes.append(CMYK_NOTE)
    else:
        rgb = np.ascontiguousarray(colour)
    if stored.alpha == "meaningless":
        notes.append(EXTRA_NOTE)
    elif stored.alpha != "none":
        alpha = eight[..., -1:]
        if int(alpha.min()) == 255:
            notes.append(OPAQUE_NOTE)
        else:
            rgb = _on_white(rgb, alpha, premultiplied=stored.alpha == "premultiplied")
            notes.append(ALPHA_NOTE)
    return rgb, notes


def _to_eight_bit(
    samples: NDArray[Any], colours: int, declared_max: int | None, depth: int | None
) -> tuple[NDArray[np.uint8], list[str]]:
    """Scale samples (H, W, C) of any accepted type to 0..255; `depth` where it is known."""
    if samples.dtype == np.uint8:
        return samples, []
    flat = samples.reshape(samples.shape[0], -1)
    if samples.dtype == np.uint16:
        greatest = int(samples[..., :colours].max())
        if depth is None or _is_telling(declared_max):
            depth = _depth_in_use(greatest, declared_max)
        if depth == 16:
            # One pass, rounded; 257 * v becomes exactly v.
            eight = np.asarray(cv2.convertScaleAbs(flat, alpha=1 / 257), np.uint8)
            note = FULL_16_BIT_NOTE
        else:
            eight = np.minimum(flat >> (depth - 8), 255).astype(np.uint8)
            note = f"{depth}-bit samples in 16 bits (greatest {greatest}) scaled to 8 bits"
        return eight.reshape(samples.shape), [note]
    least, most = float(samples.min()), float(samples.max())
    # A comparison with a value that is no number is false, so NaN is refused here too.
    if not (least >= -_FLOAT_SLACK and most <= 1 + _FLOAT_SLACK):
        raise UnsupportedImageError(
            f"floating-point samples must lie in 0..1, these span {least:.4g}..{most:.4g}; "
            "rescale them or save as 8 bits"
        )
    eight = np.asarray(
        cv2.convertScaleAbs(np.clip(flat, 0, 1, dtype=np.float32), alpha=255), np.uint8
    )
    return eight.reshape(samples.shape), [FLOAT_NOTE]


def _is_telling(declared_max: int | None) -> bool:
    """Whether a declared greatest value says anything: 65535 is every writer's default."""
    return declared_max is not None and declared_max < 65_535


def _depth_in_use(greatest: int, declared_max: int | None) -> int:
    """Tell how many of 16 bits carry the image.

    Cameras of 10, 12 and 14 bits write their values unshifted into 16-bit files; read as 16 bits
    such an image is nearly black. H&E is bright-field, its background near the greatest value, so
    the greatest value tells the depth.
    """
    if declared_max is not None and _is_telling(declared_max):
        greatest = max(greatest, declared_max)
    if greatest == 0:
        return 16
    return next((depth for depth in _ODD_DEPTHS if greatest < 1 << depth), 16)


def _cmyk_to_rgb(cmyk: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiply the inks' transmissions: R = (255 - C)(255 - K) / 255."""
    light = cv2.bitwise_not(np.ascontiguousarray(cmyk))
    black = np.ascontiguousarray(np.repeat(light[..., 3:], 3, axis=2))
    return np.asarray(cv2.multiply(light[..., :3].copy(), black, scale=1 / 255), np.uint8)


def _on_white(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool
) -> NDArray[np.uint8]:
    """Composite on white, which is what glass without tissue looks like in bright field."""
    opacity = np.ascontiguousarray(np.repeat(alpha, 3, axis=2))
    if not premultiplied:
        rgb = np.asarray(cv2.multiply(rgb, opacity, scale=1 / 255), np.uint8)
    return np.asarray(cv2.add(rgb, cv2.bitwise_not(opacity)), np.uint8)
