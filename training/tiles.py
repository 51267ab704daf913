"""The validation tiles that a model does worst and best on, as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from training.crops import cut_tiles, load_images
from training.datasets import Sample
from training.drawing import PREDICTED, TRUTH, draw_errors, draw_outlines

LEAST_FOREGROUND: Final = 0.01
"""Tiles with less nucleus than this, annotated and predicted, say little by their Dice."""


@dataclass(frozen=True, slots=True)
class JudgedTile:
    """One validation tile.

    Attributes:
        stem: name of its image.
        group: its patient.
        corner: (x, y) of its upper left pixel in the image.
        pixels: (S, S, 3) uint8 RGB.
        truth: (S, S) bool.
        found: (S, S) bool, probability 0.5 and more.
    """

    stem: str
    group: str
    corner: tuple[int, int]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    found: NDArray[np.bool_]

    @property
    def dice(self) -> float:
        """Foreground Dice, 0..1; 1 where there is neither truth nor prediction."""
        total = int(self.truth.sum()) + int(self.found.sum())
        return 2 * int((self.truth & self.found).sum()) / total if total else 1.0

    def picture(self) -> NDArray[np.uint8]:
        """Image, truth, prediction and errors side by side, (S, 4 S + 12, 3) uint8 RGB."""
        panels = (
            self.pixels,
            draw_outlines(self.pixels, self.truth, TRUTH),
            draw_outlines(self.pixels, self.found, PREDICTED),
            draw_errors(self.pixels, self.truth, self.found),
        )
        gap = np.full((self.pixels.shape[0], 4, 3), 255, np.uint8)
        row: list[NDArray[np.uint8]] = []
        for panel in panels:
            row += [panel, gap]
        return np.hstack(row[:-1])


def judge_tiles(
    model: keras.Model, samples: Sequence[Sample], tile_px: int, batch_size: int
) -> list[JudgedTile]:
    """Predict every validation tile.

    Args:
        model: a model of `ARCHITECTURES`.
        samples: the validation images.
        tile_px: side of a tile, as in training.
        batch_size: tiles predicted together.

    Returns:
        The tiles, worst first, without those that hold next to no nucleus.
    """
    tiles = []
    for sample in samples:
        [image] = load_images([sample], channels=1)
        cut = list(cut_tiles(image, tile_px))
        for first in range(0, len(cut), batch_size):
            batch = cut[first : first + batch_size]
            pixels = np.stack([tile for _, tile, _ in batch]).astype(np.float32)
            maps = keras.ops.convert_to_numpy(model(pixels, training=False))
            for (corner, tile, target), probability in zip(batch, maps[..., 0], strict=True):
                judged = JudgedTile(
                    sample.stem, sample.group, corner, tile, target[..., 0] > 127, probability > 0.5
                )
                if (judged.truth | judged.found).mean() >= LEAST_FOREGROUND:
                    tiles.append(judged)
    return sorted(tiles, key=lambda tile: tile.dice)
