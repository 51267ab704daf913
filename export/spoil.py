"""Spoil images on purpose, to learn and to measure when a quality flag fires."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def turn_hue(pixels: Pixels, degrees: float) -> Pixels:
    """Turn the hue of an RGB image, shape (H, W, 3), uint8, around the colour wheel."""
    # The full range spreads 360 degrees over 256 steps.
    hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(degrees / 360 * 256)) % 256
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)


def swap_channels(pixels: Pixels, order: tuple[int, int, int]) -> Pixels:
    """Put the channels in another order: (2, 1, 0) is BGR taken for RGB."""
    return np.ascontiguousarray(pixels[..., order])


def grey(pixels: Pixels) -> Pixels:
    """Take the colour away; three channels remain."""
    return np.asarray(cv2.merge([cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)] * 3), dtype=np.uint8)


def invert(pixels: Pixels) -> Pixels:
    """Make a negative."""
    return 255 - pixels


def halve(pixels: Pixels) -> Pixels:
    """Shrink an image to half its resolution by averaging."""
    size = max(1, pixels.shape[1] // 2), max(1, pixels.shape[0] // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def enlarge_again(pixels: Pixels) -> Pixels:
    """Shrink an image to half its resolution, and enlarge it to its size: no finest detail."""
    size = pixels.shape[1], pixels.shape[0]
    return np.asarray(
        cv2.resize(halve(pixels), size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )


def blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur an image."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px), dtype=np.uint8)


def add_noise(pixels: Pixels, levels: float) -> Pixels:
    """Add a camera's noise, the same on every call, of a standard deviation in grey levels."""
    noisy = pixels + np.random.default_rng(0).normal(0, levels, pixels.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def double_middle(pixels: Pixels) -> Pixels:
    """Enlarge the middle of an image, half as high and wide, to twice the resolution."""
    height, width = max(1, pixels.shape[0] // 2), max(1, pixels.shape[1] // 2)
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    middle = pixels[top : top + height, left : left + width]
    return np.asarray(
        cv2.resize(middle, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )
