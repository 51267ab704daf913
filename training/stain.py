"""Haematoxylin-eosin-DAB colour space and the stain augmentation in it."""

import numpy as np
from numpy.typing import NDArray

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical density of H, E and DAB in R, G, B (Ruifrok and Johnston, 2001)."""

_STAINS_FROM_DENSITY = np.linalg.inv(STAINS).astype(np.float32)
_DENSITY_OF_BYTE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


def rgb_to_hed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Deconvolve RGB into stain amounts.

    Args:
        pixels: (..., 3) uint8 RGB.

    Returns:
        (..., 3) float32 amounts of haematoxylin, eosin and DAB (the residual in H&E).
    """
    return np.asarray(_DENSITY_OF_BYTE[pixels] @ _STAINS_FROM_DENSITY, np.float32)


def hed_to_rgb(stains: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Compose stain amounts back into RGB; the inverse of `rgb_to_hed` up to rounding.

    Args:
        stains: (..., 3) float32.

    Returns:
        (..., 3) uint8 RGB, clipped.
    """
    intensity = np.exp(-(stains @ STAINS)) * 256 - 1
    return np.asarray(np.clip(np.rint(intensity), 0, 255), np.uint8)


def jitter_stains(
    pixels: NDArray[np.uint8], random: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Scale and shift each stain by a random amount (Tellez et al., 2018).

    Args:
        pixels: (H, W, 3) uint8 RGB.
        random: source of randomness.
        strength: half-width of the scale around 1; shifts are a fifth of it.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if strength <= 0:
        return pixels
    scale = random.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    shift = random.uniform(-strength / 5, strength / 5, 3).astype(np.float32)
    return hed_to_rgb(rgb_to_hed(pixels) * scale + shift)
