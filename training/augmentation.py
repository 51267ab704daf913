"""Random crops and their augmentation: image and targets move together, colours move alone."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.stain import Method, Stain, jitter_stains, normalise_stain


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Strengths of the augmentation; 0 turns a part off.

    Attributes:
        scale: largest relative zoom, either way: scanners and magnifications differ.
        rotation: any angle when true, else multiples of 90 degrees.
        elastic_px: standard deviation of the elastic displacement, px.
        stain: half-width of the stain scale (see `jitter_stains`).
        brightness: largest relative gain: scanners whiten differently.
        blur_px: largest Gaussian sigma, px, given to a fifth of the crops.
        stain_normalisation: how crops are given the stain of another training image.
        stain_normalisation_share: probability that a crop is.
    """

    scale: float = 0.25
    rotation: bool = True
    elastic_px: float = 2.0
    stain: float = 0.25
    brightness: float = 0.2
    blur_px: float = 1.2
    stain_normalisation: Method = "none"
    stain_normalisation_share: float = 0.5


def random_crop(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.uint8],
    crop_px: int,
    random: np.random.Generator,
    augmentation: Augmentation,
    *,
    nucleus_share: float,
    soft: bool = False,
    stains: tuple[Stain | None, Stain | None] = (None, None),
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut one augmented crop by a single resampling of image and targets.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        targets: (H, W, C) uint8 target maps.
        crop_px: side of the crop.
        random: source of randomness; the crop is a function of its state.
        augmentation: strengths.
        nucleus_share: probability that the crop is centred on a nucleus pixel instead of
            anywhere. This balances the classes and still shows empty tissue.
        soft: whether the nucleus map holds probabilities; else it stays 0 or 255.
        stains: of this image and of the one whose stain the crop is given, if any.

    Returns:
        Crop (crop_px, crop_px, 3) and its targets (crop_px, crop_px, C), both uint8.
    """
    height, width = pixels.shape[:2]
    centre = _centre(targets[..., 0], random, nucleus_share)
    # Half of the crops keep the pixel grid: resampling softens texture that the model will see.
    on_grid = random.random() < 0.5
    zoom = 1.0 if on_grid else np.exp(random.uniform(-1, 1) * np.log1p(augmentation.scale))
    free_angle = augmentation.rotation and not on_grid
    angle = random.uniform(0, 360) if free_angle else 90.0 * random.integers(4)
    mirror = random.random() < 0.5

    # Where each pixel of the crop comes from in the image.
    grid = np.arange(crop_px, dtype=np.float32) - (crop_px - 1) / 2
    x, y = np.meshgrid(-grid if mirror else grid, grid)
    cos, sin = np.cos(np.deg2rad(angle)) / zoom, np.sin(np.deg2rad(angle)) / zoom
    map_x = cos * x - sin * y + _keep_inside(centre[0], width, crop_px)
    map_y = sin * x + cos * y + _keep_inside(centre[1], height, crop_px)
    if augmentation.elastic_px > 0 and not on_grid and random.random() < 0.5:
        map_x += _smooth_noise(crop_px, augmentation.elastic_px, random)
        map_y += _smooth_noise(crop_px, augmentation.elastic_px, random)

    map_x, map_y = map_x.astype(np.float32), map_y.astype(np.float32)
    crop = cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    moved = cv2.remap(targets, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    moved = moved.reshape(crop_px, crop_px, targets.shape[-1])
    if not soft:
        moved[..., 0] = np.where(moved[..., 0] > 127, 255, 0)
    crop = normalise_stain(crop.astype(np.uint8), *stains)
    return _recolour(crop, random, augmentation), moved.astype(np.uint8)


def _centre(
    nucleus: NDArray[np.uint8], random: np.random.Generator, nucleus_share: float
) -> tuple[float, float]:
    height, width = nucleus.shape
    if random.random() < nucleus_share:
        # Rejection sampling: at 12.5 % foreground, 64 draws miss every nucleus once in 5,000 crops.
        ys, xs = random.integers(0, height, 64), random.integers(0, width, 64)
        hits = np.flatnonzero(nucleus[ys, xs] > 127)
        if hits.size:
            return float(xs[hits[0]]), float(ys[hits[0]])
    return float(random.uniform(0, width)), float(random.uniform(0, height))


def _keep_inside(centre: float, size_px: int, crop_px: int) -> float:
    """Move a crop's centre so that the unrotated crop lies inside the image, if it fits.

    Returns:
        A position half-way between two pixels, so that an unscaled crop of even side falls on
        the image's own pixels and is not softened by interpolation.
    """
    half = crop_px / 2
    inside = size_px / 2 if size_px <= crop_px else float(np.clip(centre, half, size_px - half))
    return float(np.floor(inside)) - 0.5


def _smooth_noise(
    crop_px: int, sigma_px: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """Displacements that vary over about a nucleus, from coarse noise (Simard et al., 2003)."""
    nodes = max(3, crop_px // 32)
    coarse = random.normal(0, sigma_px, (nodes, nodes)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (crop_px, crop_px), interpolation=cv2.INTER_CUBIC))


def _recolour(
    crop: NDArray[np.uint8], random: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.uint8]:
    crop = jitter_stains(crop, random, augmentation.stain)
    if augmentation.brightness > 0:
        strength = augmentation.brightness
        gain = random.uniform(1 - strength, 1 + strength) * random.uniform(0.95, 1.05, 3)
        contrast = random.uniform(1 - strength / 2, 1 + strength / 2)
        table = (np.arange(256) - 128) * contrast + 128
        curves = np.clip(table[:, None] * gain, 0, 255).astype(np.uint8)
        crop = np.stack([curves[crop[..., channel], channel] for channel in range(3)], axis=-1)
    if augmentation.blur_px > 0 and random.random() < 0.2:
        sigma = random.uniform(0.3, augmentation.blur_px)
        crop = cv2.GaussianBlur(crop, (0, 0), sigma).astype(np.uint8)
    return np.ascontiguousarray(crop)
