"""Outlines on images, for people to look at."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

TRUTH: Final[Colour] = (0, 190, 60)
PREDICTED: Final[Colour] = (255, 214, 0)
MISSED: Final[Colour] = (230, 97, 0)
FALSE_ALARM: Final[Colour] = (40, 90, 220)
"""Orange against blue: told apart by colour-blind eyes, too."""


def draw_outlines(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour, *, thickness_px: int = 1
) -> NDArray[np.uint8]:
    """Draw the outlines of a mask's components.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        colour: RGB.
        thickness_px: width of the line, px.

    Returns:
        A copy (H, W, 3) uint8 RGB.
    """
    drawn = np.ascontiguousarray(pixels).copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, colour, thickness_px)
    return drawn


def draw_labels(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], colour: Colour
) -> NDArray[np.uint8]:
    """Draw the border pixels of every nucleus, also where two of them touch.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        labels: (H, W), 0 background, 1..n nuclei.
        colour: RGB.

    Returns:
        A copy (H, W, 3) uint8 RGB.
    """
    padded = np.pad(labels, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    border = np.zeros(labels.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border |= neighbour != inner
    drawn = pixels.copy()
    drawn[border & (labels > 0)] = colour
    return drawn


def draw_errors(
    pixels: NDArray[np.uint8], truth: NDArray[np.bool_], found: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Colour what was missed and what was found in error, on the image in pale grey.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        truth: (H, W) bool.
        found: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    drawn = np.repeat((128 + grey / 2)[..., None], 3, axis=2).astype(np.uint8)
    drawn[truth & ~found] = MISSED
    drawn[found & ~truth] = FALSE_ALARM
    return drawn
