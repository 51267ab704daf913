"""Stains: the haematoxylin-eosin-DAB colour space, augmentation in it, guarded normalisation."""

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical density of H, E and DAB in R, G, B (Ruifrok and Johnston, 2001)."""

_STAINS_FROM_DENSITY = np.linalg.inv(STAINS).astype(np.float32)
_DENSITY_OF_BYTE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)

_TISSUE_DENSITY: Final = 0.15
"""Mean optical density of the channels that tissue exceeds (Macenko's beta); glass is near 0.1."""
_LEAST_TISSUE: Final = 0.05
"""Share of the pixels that must be tissue for an estimate."""
_MOST_PIXELS: Final = 50_000
_LEAST_SPREAD: Final = 0.005
"""Second eigenvalue over the first: less of it, and there is one stain alone."""
_LEAST_ANGLE_DEGREES: Final = 8.0
_MOST_FROM_REFERENCE_DEGREES: Final = (22.0, 50.0)
"""From haematoxylin and eosin of `STAINS`; 14 and 44 in the images of TNBC and NuInsSeg."""
_MOST_WIDENING: Final = 1.6
"""Stains of nearly one colour, drawn apart to two, show every shade as yellow or green."""
_LEAST_AMOUNT: Final = 0.1
_STRENGTH_RATIO: Final = (0.5, 2.0)
"""A pale image made dark shows its noise, a dark one made pale has nothing left."""
_DEVIATIONS: Final = (0.5, 30.0)
_LEAST_RED: Final = 1.0
"""Mean a* of CIELAB: haematoxylin and eosin are purple and pink, never green."""


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


Method = Literal["none", "macenko", "reinhard"]


@dataclass(frozen=True, slots=True)
class MacenkoStain:
    """The two stains of an image.

    Attributes:
        vectors: (2, 3) float64, optical density of haematoxylin and eosin in R, G, B, length 1.
        strong: (2,) float64, amount of each that 99 % of the tissue stays below.
    """

    vectors: NDArray[np.float64]
    strong: NDArray[np.float64]

    @property
    def angle_degrees(self) -> float:
        """Angle between the two, degrees."""
        return float(_degrees(self.vectors[0] @ self.vectors[1]))


@dataclass(frozen=True, slots=True)
class ReinhardStain:
    """The colour of an image's tissue.

    Attributes:
        mean: (3,) float64, CIELAB.
        deviation: (3,) float64, standard deviations.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


Stain = MacenkoStain | ReinhardStain


def estimate_stain(pixels: NDArray[np.uint8], method: Method) -> Stain | None:
    """Estimate how an image is stained, from its tissue alone.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        method: "macenko" (Macenko et al., A method for normalizing histology slides for
            quantitative analysis, ISBI 2009) or "reinhard" (Reinhard et al., Color transfer between
            images, IEEE CG&A 2001, here in CIELAB and on tissue alone); "none" estimates nothing.

    Returns:
        The stain; None where too little tissue is there or what is found cannot be haematoxylin
        and eosin, so that normalising would invent colours.
    """
    if method == "none":
        return None
    density = _DENSITY_OF_BYTE[pixels.reshape(-1, 3)]
    tissue = density.mean(axis=1) > _TISSUE_DENSITY
    if tissue.mean() < _LEAST_TISSUE:
        return None
    # A quarter of a million pixels tell no more than fifty thousand.
    chosen = np.flatnonzero(tissue)[:: max(1, int(tissue.sum()) // _MOST_PIXELS)]
    if method == "macenko":
        return _macenko(density[chosen].astype(np.float64))
    lab = _lab(pixels.reshape(1, -1, 3)[:, chosen]).reshape(-1, 3).astype(np.float64)
    stain = ReinhardStain(lab.mean(axis=0), lab.std(axis=0))
    low, high = _DEVIATIONS
    spread = low <= stain.deviation.min() and stain.deviation.max() <= high
    return stain if spread and stain.mean[1] >= _LEAST_RED else None


def _macenko(density: NDArray[np.float64]) -> MacenkoStain | None:
    """Stains of tissue pixels (M, 3) by their optical density."""
    spread, axes = np.linalg.eigh(np.cov(density.T))
    if spread[1] < _LEAST_SPREAD * spread[2]:
        return None
    # The plane of the two largest spreads; the first axis points to more stain, not to less.
    plane = axes[:, [2, 1]] * np.where(axes[:, [2, 1]].sum(axis=0) < 0, -1, 1)
    along = density @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, [1, 99])
    vectors = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in ends])
    # Haematoxylin takes more red away than eosin does.
    vectors = vectors[np.argsort(-vectors[:, 0])]
    expected = STAINS[:2] / np.linalg.norm(STAINS[:2], axis=1, keepdims=True)
    away = _degrees((vectors * expected).sum(axis=1))
    if (
        _degrees(vectors[0] @ vectors[1]) < _LEAST_ANGLE_DEGREES
        or (away > _MOST_FROM_REFERENCE_DEGREES).any()
    ):
        return None
    strong = np.percentile(density @ np.linalg.pinv(vectors), 99, axis=0)
    return MacenkoStain(vectors, strong) if strong.min() > _LEAST_AMOUNT else None


def _degrees(cosine: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def normalise_stain(
    pixels: NDArray[np.uint8], source: Stain | None, target: Stain | None
) -> NDArray[np.uint8]:
    """Give pixels the stain of another image.

    Args:
        pixels: (H, W, 3) uint8 RGB, an image or a part of it.
        source: of the whole image: parts of one image are changed alike.
        target: of the other one, by the same method.

    Returns:
        (H, W, 3) uint8 RGB; the pixels as they are where either stain is None, or where the
        image's stains are too alike to be told apart as widely as the other one's.

    Raises:
        TypeError: the stains are of different methods.
    """
    if source is None or target is None:
        return pixels
    if isinstance(source, MacenkoStain) and isinstance(target, MacenkoStain):
        if target.angle_degrees > _MOST_WIDENING * source.angle_degrees:
            return pixels
        density = _DENSITY_OF_BYTE[pixels]
        amounts = density @ np.linalg.pinv(source.vectors).astype(np.float32)
        # What the two stains do not explain (pigment, noise) stays as it is.
        rest = density - amounts @ source.vectors.astype(np.float32)
        strength = np.clip(target.strong / source.strong, *_STRENGTH_RATIO).astype(np.float32)
        density = amounts * strength @ target.vectors.astype(np.float32) + rest
        return _on_tissue(pixels, np.exp(-density) * 256 - 1)
    if isinstance(source, ReinhardStain) and isinstance(target, ReinhardStain):
        ratio = np.clip(target.deviation / source.deviation, *_STRENGTH_RATIO)
        lab = (_lab(pixels) - source.mean) * ratio + target.mean
        return _on_tissue(pixels, cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB) * 255)
    raise TypeError("stains of two methods cannot be mixed")


def _on_tissue(pixels: NDArray[np.uint8], moved: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Mix by density: tissue takes the new colour, glass has no stain and stays as it is."""
    density = _DENSITY_OF_BYTE[pixels].mean(axis=-1, keepdims=True)
    share = np.clip(density / _TISSUE_DENSITY - 0.5, 0, 1)
    mixed = pixels + share * (np.clip(moved, 0, 255) - pixels)
    return np.asarray(np.rint(mixed), np.uint8)


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
