"""The caller's image with each nucleus outlined.

Outlines are drawn from the labels, within each nucleus, so that two that touch show two outlines
and nothing outside a nucleus is painted over.

    labels   1 1 1 2 2 2      outline   # # # # # #
             1 1 1 2 2 2                # . # # . #
             1 1 1 2 2 2                # # # # # #
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.outputs.png import encode_rgb

# Far from every colour of haematoxylin (blue-violet) and eosin (pink), and from white glass.
DEFAULT_COLOUR = (0, 255, 0)
# Readable at 1:1 and still thin beside a nucleus of 20 px.
DEFAULT_THICKNESS_PX = 2
_LARGEST_EXACT_UINT16 = 65_535


def draw_overlay(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    *,
    colour: tuple[int, int, int] = DEFAULT_COLOUR,
    thickness_px: int = DEFAULT_THICKNESS_PX,
) -> NDArray[np.uint8]:
    """Draw the outline of each nucleus onto a copy of the image.

    Args:
        pixels: RGB, (H, W, 3), uint8; left as it is.
        labels: (H, W), 0 background, 1 to n.
        colour: RGB of the outlines.
        thickness_px: Width of an outline, inwards from the nucleus's edge.

    Returns:
        RGB, (H, W, 3), uint8.
    """
    drawn = pixels.copy()
    outline = find_outlines(labels, thickness_px=thickness_px)
    # Five times as fast as boolean indexing.
    cv2.copyTo(np.full_like(drawn, colour), outline, drawn)
    return drawn


def encode_overlay(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    *,
    colour: tuple[int, int, int] = DEFAULT_COLOUR,
    thickness_px: int = DEFAULT_THICKNESS_PX,
) -> bytes:
    """Draw as `draw_overlay` and encode as RGB PNG."""
    return encode_rgb(draw_overlay(pixels, labels, colour=colour, thickness_px=thickness_px))


def find_outlines(
    labels: NDArray[np.integer[Any]], *, thickness_px: int = DEFAULT_THICKNESS_PX
) -> NDArray[np.uint8]:
    """Find the pixels of each nucleus within `thickness_px` of another label or background.

    The image's border is no edge: a nucleus that it cuts has an open outline there.

    Args:
        labels: (H, W), 0 background, 1 to n.
        thickness_px: Width of the outline, at least 1.

    Returns:
        (H, W), uint8, 255 on an outline, else 0.
    """
    # OpenCV filters no 32-bit integers; float32 holds every label up to 2^24 exactly.
    values: NDArray[np.integer[Any] | np.floating[Any]]
    if labels.max(initial=0) <= _LARGEST_EXACT_UINT16:
        values = labels.astype(np.uint16)
    else:
        values = labels.astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    least = cv2.erode(values, cross, iterations=thickness_px)
    most = cv2.dilate(values, cross, iterations=thickness_px)
    # A pixel whose neighbourhood holds one label only has equal least and most.
    mixed = cv2.compare(least, most, cv2.CMP_NE)
    return np.asarray(np.where(labels > 0, mixed, 0), np.uint8)
