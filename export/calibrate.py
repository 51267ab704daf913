"""Choose the thresholds that a model is served with, on patients it was not trained on.

Four numbers turn maps into nuclei: the probability of a foreground pixel, the height of a seed, the
least area and the least mean probability. The first outlines nuclei, the last drops false ones:
with one threshold for both, a count without bias costs outlines that are too tight. The network
runs once over each image; then every combination on a grid is tried with the service's own
separation, which is cheap.

The objective of one combination is

    (Dice + F1@0.5) / 2  -  mean over patients of |count bias|

with Dice pooled over pixels and F1 over nuclei. Dice alone would hardly see the seeds, and a count
alone is right by chance where splits and merges cancel, hence F1. The bias is taken patient by
patient, or an excess in one would pay for a lack in another. The combination taken is the one with
the best mean over itself and its neighbours on the grid: with few images a lone peak is luck, a
plateau is not.

No interval of the count is calibrated here: after the thresholds have been chosen on these images
their errors are no fresh sample, and a split-conformal interval of 90 % needs nine images at least
that chose nothing.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from export.errors import ExportRefusedError
from service.inference.contract import SeparationSpec
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from service.segmentation.tiling import extract, plan_tiles, stitch
from training.datasets import Sample
from training.matching import (
    InstanceCounts,
    PixelCounts,
    compare_counts,
    count_instances,
    count_instances_of,
    count_pixels,
    overlap_table,
)

PROBABILITY_THRESHOLDS: Final = tuple(round(0.20 + 0.05 * step, 2) for step in range(15))
SEED_THRESHOLDS: Final = tuple(round(0.10 + 0.10 * step, 2) for step in range(8))
MIN_MEAN_PROBABILITIES: Final = (0.0, 0.65, 0.70, 0.75, 0.80, 0.85)
"""Tried least mean probabilities of a nucleus; 0 drops none, and for most models nor does 0.65."""

MIN_AREAS_UM2: Final = (2.0, 4.0, 6.0, 9.0, 12.0, 16.0)
"""Tried least areas; a lymphocyte's nucleus of 6 um covers 28 um2, its half cut at a tile 14."""

TRIALS_WRITTEN: Final = 500
"""The table holds so many of the best trials: all of them would take a megabyte a model."""

UNUSED_SEED_THRESHOLD: Final = 0.5
"""What a one-channel model, which has no distance map to threshold, states in its contract."""


@dataclass(frozen=True, slots=True)
class CalibrationImage:
    """One validation image after the network has run.

    Attributes:
        stem: Its name.
        group: Its patient.
        maps: (H, W, C), uint8, 0..255 for 0..1, at the model's native resolution.
        labels: The annotation, (H, W), int32, 0 background.
    """

    stem: str
    group: str
    maps: NDArray[np.uint8]
    labels: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of thresholds, and what came of it (ratios 0..1, biases signed)."""

    probability_threshold: float
    seed_threshold: float
    min_area_um2: float
    min_mean_probability: float
    dice: float
    f1: float
    count_bias: float
    group_bias: float
    """Mean over patients of |count bias|."""
    count_mape: float
    objective: float
    plateau: float
    """Mean objective of the combination and its neighbours on the grid, which is maximised."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen combination, and all that were tried.

    Attributes:
        chosen: The trial with the best plateau.
        trials: Every trial, in the order of the grid.
        images: Names of the images.
        groups: The patients they come from.
        pixels: Predicted against annotated foreground of each image under the chosen thresholds.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    images: tuple[str, ...]
    groups: tuple[str, ...]
    pixels: tuple[PixelCounts, ...]

    @property
    def separation(self) -> SeparationSpec:
        """The chosen thresholds as they go into the contract."""
        return SeparationSpec(
            probability_threshold=self.chosen.probability_threshold,
            seed_threshold=self.chosen.seed_threshold,
            min_area_um2=self.chosen.min_area_um2,
            min_mean_probability=self.chosen.min_mean_probability,
        )

    def write(self, path: Path) -> None:
        """Write the best trials as JSON, best first; the folder exists."""
        best = sorted(self.trials, key=lambda trial: trial.plateau, reverse=True)[:TRIALS_WRITTEN]
        head = {
            "objective": "(dice + f1) / 2 - mean over groups of |count bias|; "
            "the best mean over neighbours on the grid is chosen",
            "images": self.images,
            "groups": self.groups,
            "combinations": len(self.trials),
            "chosen": _rounded(self.chosen),
        }
        # One line a trial: a table that people can read and `git diff` too.
        opening = json.dumps(head, indent=1).removesuffix("\n}")
        rows = ",\n  ".join(json.dumps(_rounded(trial)) for trial in best)
        path.write_text(f'{opening},\n "trials": [\n  {rows}\n ]\n}}\n', encoding="utf-8")


_Pair = tuple[float, float]
"""Probability and seed threshold, or least area and least mean probability."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one combination gave on each image."""

    pixels: list[PixelCounts]
    instances: list[InstanceCounts]


def run_network(session: ModelSession, samples: Iterable[Sample]) -> list[CalibrationImage]:
    """Run the network once over each sample, tiled as the service tiles.

    Args:
        session: The model.
        samples: Images at the model's native resolution, with their annotation.

    Returns:
        Maps and annotation of each.

    Raises:
        training.datasets.DatasetError: A sample is unreadable.
    """
    sizes = session.contract.input
    images = []
    for sample in samples:
        pixels, labels = sample.read()
        height_px, width_px = labels.shape
        plan = plan_tiles(height_px, width_px, sizes.tile_px, sizes.halo_px, sizes.divisor)
        tiles = [session.run(extract(pixels, plan, i, i + 1)) for i in range(len(plan))]
        maps = stitch(np.concatenate(tiles), plan)
        images.append(CalibrationImage(sample.stem, sample.group, maps, labels))
    return images


def calibrate(
    images: Sequence[CalibrationImage],
    *,
    mpp: float,
    probability_thresholds: Sequence[float] = PROBABILITY_THRESHOLDS,
    seed_thresholds: Sequence[float] = SEED_THRESHOLDS,
    min_areas_um2: Sequence[float] = MIN_AREAS_UM2,
    min_mean_probabilities: Sequence[float] = MIN_MEAN_PROBABILITIES,
    progress: Callable[[Sequence[_Pair]], Iterable[_Pair]] = iter,
) -> Calibration:
    """Try every combination on the grid and choose one.

    Args:
        images: Validation images with maps of one model, at least one with annotated nuclei.
        mpp: Micrometres a pixel of the maps.
        probability_thresholds: Tried least probabilities of a foreground pixel.
        seed_thresholds: Tried heights of a seed; ignored for models without a distance map.
        min_areas_um2: Tried least areas, um2.
        min_mean_probabilities: Tried least mean probabilities of a nucleus.
        progress: Shows how far the work is.

    Raises:
        ExportRefusedError: There is no image, or none holds an annotated nucleus.
    """
    if not any(image.labels.any() for image in images):
        raise ExportRefusedError("calibration needs validation images with annotated nuclei")
    if images[0].maps.shape[2] == 1:
        seed_thresholds = (UNUSED_SEED_THRESHOLD,)
    pairs = list(itertools.product(probability_thresholds, seed_thresholds))
    filters = list(itertools.product(min_areas_um2, min_mean_probabilities))
    grid = [(*pair, *chosen) for pair in pairs for chosen in filters]
    filters_px = [(area_um2 / mpp**2, mean) for area_um2, mean in filters]
    outcomes = [o for pair in progress(pairs) for o in _try_pair(images, pair, filters_px)]
    groups = tuple(image.group for image in images)
    scores = [_score(outcome, groups) for outcome in outcomes]
    shape = (
        len(probability_thresholds),
        len(seed_thresholds),
        len(min_areas_um2),
        len(min_mean_probabilities),
    )
    objective = np.array([score["objective"] for score in scores]).reshape(shape)
    # Beyond its rim the grid is continued by itself, so an edge has no advantage.
    plateau = ndimage.uniform_filter(objective, size=3, mode="nearest").ravel()
    best = int(plateau.argmax())
    exact = _try_exactly(images, grid[best], mpp)
    scores[best] = _score(exact, groups)
    trials = tuple(
        Trial(*combination, **score, plateau=float(level))
        for combination, score, level in zip(grid, scores, plateau, strict=True)
    )
    return Calibration(
        chosen=trials[best],
        trials=trials,
        images=tuple(image.stem for image in images),
        groups=tuple(sorted(set(groups))),
        pixels=tuple(exact.pixels),
    )


def _try_pair(
    images: Sequence[CalibrationImage], pair: _Pair, filters: Sequence[_Pair]
) -> list[_Outcome]:
    """Separate once, and drop small and doubtful nuclei for each filter (px, probability) in turn.

    All figures follow from the overlaps of annotated and separated nuclei, where a dropped nucleus
    is a column that joins the background. Differs from `_try_exactly` by a few pixels at most:
    there a dropped speck that lay within another nucleus becomes a hole and is filled.
    """
    outcomes = [_Outcome([], []) for _ in filters]
    for image in images:
        labels = separate(
            image.maps, probability_threshold=pair[0], seed_threshold=pair[1], min_area_px=0.0
        )
        overlap_px = overlap_table(image.labels, labels)
        # Labels are consecutive: column i of the table is nucleus i.
        flat = labels.ravel()
        area_px = np.bincount(flat)
        total = np.bincount(flat, weights=image.maps[..., 0].ravel())
        for outcome, (min_area_px, min_mean) in zip(outcomes, filters, strict=True):
            kept = (area_px >= min_area_px) & (total >= min_mean * 255 * area_px)
            kept[0] = True
            left_px = overlap_px[:, kept]
            left_px[1:, 0] += overlap_px[1:, ~kept].sum(axis=1)
            outcome.instances.append(count_instances_of(left_px))
            outcome.pixels.append(_pixels_of(left_px, labels.size))
    return outcomes


def _pixels_of(overlap_px: NDArray[np.int64], image_px: int) -> PixelCounts:
    both = int(overlap_px[1:, 1:].sum())
    extra, missed = int(overlap_px[0, 1:].sum()), int(overlap_px[1:, 0].sum())
    return PixelCounts(both, extra, missed, image_px - both - extra - missed)


def _try_exactly(
    images: Sequence[CalibrationImage], combination: tuple[float, float, float, float], mpp: float
) -> _Outcome:
    """Separate as the service will."""
    probability_threshold, seed_threshold, min_area_um2, min_mean_probability = combination
    outcome = _Outcome([], [])
    for image in images:
        labels = separate(
            image.maps,
            probability_threshold=probability_threshold,
            seed_threshold=seed_threshold,
            min_area_px=min_area_um2 / mpp**2,
            min_mean_probability=min_mean_probability,
        )
        outcome.pixels.append(count_pixels(image.labels, labels))
        outcome.instances.append(count_instances(image.labels, labels))
    return outcome


def _score(outcome: _Outcome, groups: Sequence[str]) -> dict[str, float]:
    pixels = sum(outcome.pixels[1:], start=outcome.pixels[0])
    instances = sum(outcome.instances[1:], start=outcome.instances[0])
    truth = [counts.truth_count for counts in outcome.instances]
    predicted = [counts.predicted_count for counts in outcome.instances]
    biases = []
    for group in sorted(set(groups)):
        chosen = [index for index, name in enumerate(groups) if name == group]
        bias = compare_counts([truth[i] for i in chosen], [predicted[i] for i in chosen]).bias
        if bias is not None:
            biases.append(abs(bias))
    agreement = compare_counts(truth, predicted)
    group_bias = float(np.mean(biases))
    return {
        "dice": pixels.dice,
        "f1": instances.f1,
        "count_bias": agreement.bias or 0.0,
        "group_bias": group_bias,
        "count_mape": agreement.mape or 0.0,
        "objective": (pixels.dice + instances.f1) / 2 - group_bias,
    }


def _rounded(trial: Trial) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(trial).items()}
