"""Batches of crops for Keras: a pure function of seed, epoch and step, so that runs resume."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.augmentation import Augmentation, random_crop
from training.datasets import Sample
from training.targets import make_targets

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image in memory with its target maps.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        targets: (H, W, C) uint8.
        soft: whether the nucleus map holds probabilities instead of 0 and 255.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.uint8]
    soft: bool = False


def load_images(samples: Sequence[Sample], channels: int) -> list[LoadedImage]:
    """Read samples and make their targets once; crops are cut from these."""
    images = []
    for sample in samples:
        pixels, labels = sample.read()
        images.append(LoadedImage(pixels, make_targets(labels, channels)))
    return images


class CropDataset(keras.utils.PyDataset):
    """Endless augmented crops, `steps` batches an epoch.

    Batch `i` of epoch `e` depends on (seed, e, i) alone: a run resumed at epoch e sees the crops
    that it would have seen. `epoch` is set from outside before each epoch.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[LoadedImage], float]],
        *,
        crop_px: int,
        batch_size: int,
        steps: int,
        augmentation: Augmentation,
        nucleus_share: float,
        seed: int,
    ) -> None:
        # One thread prepares the next batch while the backend works on this one.
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=4)
        weights = np.asarray([weight for _, weight in sources], float)
        self._sources = [images for images, _ in sources]
        self._weights = weights / weights.sum()
        self._crop_px = crop_px
        self._batch_size = batch_size
        self._steps = steps
        self._augmentation = augmentation
        self._nucleus_share = nucleus_share
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        """Images (N, H, W, 3) in 0..255 and targets (N, H, W, C) in 0..1, float32."""
        random = np.random.default_rng([self._seed, self.epoch, index])
        crops, maps = [], []
        for _ in range(self._batch_size):
            images = self._sources[int(random.choice(len(self._sources), p=self._weights))]
            image = images[int(random.integers(len(images)))]
            crop, target = random_crop(
                image.pixels,
                image.targets,
                self._crop_px,
                random,
                self._augmentation,
                nucleus_share=self._nucleus_share,
                soft=image.soft,
            )
            crops.append(crop)
            maps.append(target)
        return _as_batch(crops, maps)


def validation_tiles(images: Sequence[LoadedImage], tile_px: int) -> Batch:
    """Cut validation images into a grid of tiles, the last ones completed by reflection.

    Args:
        images: the validation images.
        tile_px: side of a tile.

    Returns:
        Tiles (M, tile_px, tile_px, 3) in 0..255 and targets (M, tile_px, tile_px, C) in 0..1.
    """
    tiles, maps = [], []
    for image in images:
        height, width = image.pixels.shape[:2]
        pad = ((0, -height % tile_px), (0, -width % tile_px), (0, 0))
        pixels = np.pad(image.pixels, pad, mode="symmetric")
        targets = np.pad(image.targets, pad, mode="symmetric")
        for top in range(0, pixels.shape[0], tile_px):
            for left in range(0, pixels.shape[1], tile_px):
                window = np.s_[top : top + tile_px, left : left + tile_px]
                tiles.append(pixels[window])
                maps.append(targets[window])
    return _as_batch(tiles, maps)


def _as_batch(pixels: list[NDArray[np.uint8]], maps: list[NDArray[np.uint8]]) -> Batch:
    return np.stack(pixels).astype(np.float32), np.divide(np.stack(maps), 255, dtype=np.float32)
