"""What a reduced precision costs: the service's own answer against the float32 file's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from export.errors import ExportRefusedError
from service.inference.contract import VariantAccuracy
from service.inference.session import ModelSession
from service.segmenter import Segmenter
from training.datasets import Sample
from training.matching import compare_counts, count_pixels

MOST_DICE_LOSS: Final = 0.005
"""Dice may fall by this much, pooled over the pixels of all validation images."""

MOST_BIAS_CHANGE_POINTS: Final = 1.0
"""The count bias may move by this many percentage points, up or down."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A file on the validation images.

    Attributes:
        dice: Pooled over pixels, 0..1.
        count_bias: (found - annotated) / annotated of the totals, signed.
    """

    dice: float
    count_bias: float


class Judge:
    """Measures files on one set of images, and compares them with the reference."""

    def __init__(self, samples: Sequence[Sample], *, dataset: str, split: str) -> None:
        """Read the images, which every file is measured on.

        Args:
            samples: Labelled images that the reference was not trained on.
            dataset: Name of their data set.
            split: Which part of it, and what role that part has.

        Raises:
            ExportRefusedError: Nothing is annotated, so that there is no bias.
            training.datasets.DatasetError: An image is unreadable.
        """
        self.dataset, self.split = dataset, split
        self._images = [sample.read() for sample in samples]
        if not any(truth.any() for _, truth in self._images):
            raise ExportRefusedError("the validation images hold no annotated nucleus")

    def measure(self, session: ModelSession) -> Measured:
        """Segment all images as the service does."""
        segmenter = Segmenter(session)
        found = [segmenter.segment(pixels) for pixels, _ in self._images]
        truths = [truth for _, truth in self._images]
        pixels = [
            count_pixels(truth, segmentation.labels)
            for truth, segmentation in zip(truths, found, strict=True)
        ]
        counts = compare_counts(
            [int(np.count_nonzero(np.bincount(truth.ravel())[1:])) for truth in truths],
            [segmentation.count for segmentation in found],
        )
        return Measured(dice=sum(pixels[1:], start=pixels[0]).dice, count_bias=counts.bias or 0.0)

    def compare(self, reference: Measured, variant: Measured) -> VariantAccuracy:
        """The change that the contract states."""
        return VariantAccuracy(
            dataset=self.dataset,
            split=self.split,
            images=len(self._images),
            dice_change=round(variant.dice - reference.dice, 5),
            count_bias_change_points=round((variant.count_bias - reference.count_bias) * 100, 3),
        )


def excess(accuracy: VariantAccuracy) -> float:
    """How far a change is from the limits: at most 1 within them, 2 at twice a limit."""
    return max(
        -accuracy.dice_change / MOST_DICE_LOSS,
        abs(accuracy.count_bias_change_points) / MOST_BIAS_CHANGE_POINTS,
    )


def is_accepted(accuracy: VariantAccuracy) -> bool:
    """Whether Dice falls, and the count bias moves, within the limits."""
    return excess(accuracy) <= 1


def describe(accuracy: VariantAccuracy) -> str:
    """The figures for people."""
    return (
        f"Dice {accuracy.dice_change:+.4f} (at least {-MOST_DICE_LOSS:+g}), count bias "
        f"{accuracy.count_bias_change_points:+.2f} points (at most {MOST_BIAS_CHANGE_POINTS:g} "
        f"either way), {accuracy.images} images"
    )


def check_apart(calibration: Iterable[Sample], validation: Iterable[Sample]) -> None:
    """Refuse to judge a variant on the images that its ranges were taken from.

    Raises:
        ExportRefusedError: A sample is in both.
    """
    shared = sorted({s.stem for s in calibration} & {s.stem for s in validation})
    if shared:
        raise ExportRefusedError(
            f"{len(shared)} images would both calibrate and judge, first {shared[0]}"
        )
