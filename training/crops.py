"""Batches of crops for Keras: a pure function of seed, epoch and step, so that runs resume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.augmentation import Augmentation, random_crop
from training.datasets import DatasetError, Sample
from training.stain import Stain, estimate_stain
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


def check_crop(name: str, images: Sequence[LoadedImage], crop_px: int) -> None:
    """Refuse crops that are larger than every image: they would be reflections for the most part.

    Args:
        name: of the source.
        images: its training images.
        crop_px: side of a crop.

    Raises:
        training.datasets.DatasetError: with the largest crop that fits.
    """
    side_px = max(min(image.pixels.shape[:2]) for image in images)
    if crop_px > side_px:
        fits = side_px // 32 * 32
        remedy = f"set crop_px = {fits}" if fits else "use images of 32 px or more"
        raise DatasetError(
            f"crop_px is {crop_px}, but the largest image of {name} is {side_px} px on its shorter "
            f"side; {remedy}"
        )


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
        self._stains = [
            [estimate_stain(image.pixels, augmentation.stain_normalisation) for image in images]
            for images in self._sources
        ]
        self._targets = [stain for of in self._stains for stain in of if stain is not None]
        self.epoch = 0

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Batch:
        """Images (N, H, W, 3) in 0..255 and targets (N, H, W, C) in 0..1, float32."""
        random = np.random.default_rng([self._seed, self.epoch, index])
        crops, maps = [], []
        for _ in range(self._batch_size):
            source = int(random.choice(len(self._sources), p=self._weights))
            number = int(random.integers(len(self._sources[source])))
            image = self._sources[source][number]
            crop, target = random_crop(
                image.pixels,
                image.targets,
                self._crop_px,
                random,
                self._augmentation,
                nucleus_share=self._nucleus_share,
                soft=image.soft,
                stains=(self._stains[source][number], self._draw_target(random)),
            )
            crops.append(crop)
            maps.append(target)
        return _as_batch(crops, maps)

    def _draw_target(self, random: np.random.Generator) -> Stain | None:
        """The stain of a random training image, or None; draws nothing where it is turned off."""
        share = self._augmentation.stain_normalisation_share
        if share <= 0 or not self._targets or random.random() >= share:
            return None
        return self._targets[int(random.integers(len(self._targets)))]


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
        for _, pixels, targets in cut_tiles(image, tile_px):
            tiles.append(pixels)
            maps.append(targets)
    return _as_batch(tiles, maps)


def cut_tiles(
    image: LoadedImage, tile_px: int
) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8], NDArray[np.uint8]]]:
    """Cut one image as `validation_tiles` does.

    Yields:
        (x, y) of the tile's corner in the image, its pixels (tile_px, tile_px, 3) and its targets
        (tile_px, tile_px, C), both uint8.
    """
    height, width = image.pixels.shape[:2]
    pad = ((0, -height % tile_px), (0, -width % tile_px), (0, 0))
    pixels = np.pad(image.pixels, pad, mode="symmetric")
    targets = np.pad(image.targets, pad, mode="symmetric")
    for top in range(0, pixels.shape[0], tile_px):
        for left in range(0, pixels.shape[1], tile_px):
            window = np.s_[top : top + tile_px, left : left + tile_px]
            yield (left, top), pixels[window], targets[window]


def _as_batch(pixels: list[NDArray[np.uint8]], maps: list[NDArray[np.uint8]]) -> Batch:
    return np.stack(pixels).astype(np.float32), np.divide(np.stack(maps), 255, dtype=np.float32)
