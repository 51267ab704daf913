"""Learn from what finished models see, too, and not from the annotation alone.

Two annotators of one field draw outlines that lie a pixel apart, and of a nucleus of 20 px a pixel
all round is a fifth of the area. A model that is trained long enough learns that noise by heart.
The average of several finished models over several views of an image does not have it: half of the
annotation and half of that average teach a single model what the average knows (Hinton, Vinyals
and Dean, Distilling the knowledge in a neural network, 2015).

Teachers never see validation images here; what they have *learnt* from is kept with the run
(`training.lineage`), so that nobody judges the student on patients of its teachers.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.architectures import DIVISOR
from training.crops import LoadedImage

VIEWS = ((False, False), (True, True), (True, False), (False, True))
"""Mirrorings (up-down, left-right) of an image that a teacher is shown, in the order of use."""


def load_teachers(paths: Sequence[str], channels: int) -> list[keras.Model]:
    """Read the teachers.

    Args:
        paths: `model.keras` files, relative to the working directory.
        channels: maps that the student learns.

    Raises:
        ValueError: one is missing, or gives other maps than the student shall learn.
    """
    teachers = []
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"teacher {path} not found: give the model.keras of a finished run")
        teacher = keras.models.load_model(path, compile=False)
        if teacher.output_shape[-1] != channels:
            raise ValueError(
                f"teacher {path} gives {teacher.output_shape[-1]} maps, the run learns {channels}: "
                "teachers need the channels of the run"
            )
        teachers.append(teacher)
    return teachers


def soften_targets(
    images: Sequence[LoadedImage], teachers: Sequence[keras.Model], *, share: float, views: int
) -> list[LoadedImage]:
    """Mix the annotation of training images with what the teachers see on them.

    Args:
        images: training images with targets from the annotation.
        teachers: models of the same maps.
        share: weight of the teachers' average, 0..1; the annotation has the rest.
        views: mirrorings of each image that are averaged, 1 to 4.

    Returns:
        The images with targets between 0 and 255, `soft` set.
    """
    softened = []
    for image in images:
        seen = np.mean([average_view(teacher, image.pixels, views) for teacher in teachers], axis=0)
        targets = np.rint((1 - share) * image.targets + share * 255 * seen).astype(np.uint8)
        softened.append(LoadedImage(image.pixels, targets, soft=True))
    return softened


def average_view(model: keras.Model, pixels: NDArray[np.uint8], views: int) -> NDArray[np.float32]:
    """Average a model's maps over mirrored views of a whole image.

    Args:
        model: takes (N, H, W, 3) in 0..255.
        pixels: (H, W, 3) uint8, completed by reflection to a size that the model takes.
        views: how many of `VIEWS`.

    Returns:
        (H, W, C) float32 in 0..1.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0)), "symmetric")
    flips = [tuple(axis for axis in (0, 1) if view[axis]) for view in VIEWS[:views]]
    batch = np.stack([np.flip(padded, flip) for flip in flips]).astype(np.float32)
    maps = np.asarray(model.predict_on_batch(batch), np.float32)
    back = [np.flip(one, flip) for one, flip in zip(maps, flips, strict=True)]
    return np.asarray(np.mean(back, axis=0), np.float32)[:height, :width]
