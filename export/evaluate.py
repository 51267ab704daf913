"""Measure a model file on annotated images, through the service's own segmentation.

What is measured here is what is served: the same tiling, thresholds and separation of touching
nuclei. Needs neither TensorFlow nor Keras.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from export.bootstrap import Bootstrap, bootstrap
from export.curves import curves
from export.seen import seen
from service.inference.contract import MetricsEntry
from service.segmentation.augmentation import TestTimeAugmentation
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter
from training.datasets import (
    DEFAULT_GROUP_PATTERN,
    DatasetError,
    Sample,
    read_dataset,
    select_groups,
)
from training.matching import (
    InstanceCounts,
    PixelCounts,
    compare_counts,
    count_instances,
    count_pixels,
)
from training.probability import ProbabilityHistogram, count_levels

# A list of nothing but numbers, which `json.dumps` would give a line each.
_NUMBER_LIST: Final = re.compile(r"\[\s+([-+\d.e,\s]+?)\s+\]")

Progress = Callable[[Sequence[Sample]], Iterable[Sample]]
"""Wraps the samples to show how far the work is, as `rich.progress.track` does."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image: its name, and everything that its figures are made of.

    Attributes:
        stem: Name of the image.
        group: Patient or organ.
        kind: Kind of annotation, `training.datasets.Kind`.
        pixels: Foreground against annotation.
        instances: Nuclei against annotation.
        components: Nuclei that connected components of the same foreground would count.
        levels: Nucleus probability against annotation.
    """

    stem: str
    group: str
    kind: str
    pixels: PixelCounts
    instances: InstanceCounts
    components: int
    levels: ProbabilityHistogram


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model file measured on one data set.

    Attributes:
        dataset: Name of the data set.
        split: Which part of it, and what role that part had.
        model: Name, version, SHA-256 and provider of what was measured.
        separation: The thresholds that were in force.
        test_time_augmentation: The copies of each tile that were averaged.
        images: One result an image.
        seen: Patients among them that had a part in making the file; see `export.seen`.
    """

    dataset: str
    split: str
    model: dict[str, str]
    separation: dict[str, float]
    test_time_augmentation: TestTimeAugmentation
    images: tuple[ImageResult, ...]
    seen: dict[str, list[str]] = field(default_factory=dict)

    @property
    def pooled(self) -> dict[str, float]:
        """Figures over all images; see `figures`."""
        return figures(self.images)

    @property
    def levels(self) -> ProbabilityHistogram:
        """Nucleus probability against annotation, over all images."""
        return _pool_levels(self.images)

    def bootstrap(self) -> Bootstrap | None:
        """Intervals of the pooled figures; None for a single image."""
        return bootstrap(
            [image.group for image in self.images],
            [image.pixels for image in self.images],
            [image.instances for image in self.images],
        )

    def by_group(self) -> dict[str, dict[str, float]]:
        """Figures of every patient or organ."""
        groups = sorted({result.group for result in self.images})
        return {
            group: figures([result for result in self.images if result.group == group])
            for group in groups
        }

    def entry(self) -> MetricsEntry:
        """The pooled figures as they go into a model's contract."""
        values = {key: round(value, 4) for key, value in self.pooled.items()}
        return MetricsEntry(
            dataset=self.dataset, split=self.split, images=len(self.images), values=values
        )


def choose_samples(
    root: Path, groups: str | None, *, group_pattern: str = DEFAULT_GROUP_PATTERN
) -> list[Sample]:
    """Read a labelled folder, or some of its patients.

    Args:
        root: The folder, in any layout of `training.datasets`.
        groups: Comma-separated groups: shell patterns (`tnbc_p0[78]`), or how they end (`07,08`).
            None takes all.
        group_pattern: Regular expression from file stem to patient.

    Raises:
        DatasetError: The folder is not usable, or a pattern matches no group.
    """
    samples = read_dataset(root, group_pattern=group_pattern)
    if groups is None:
        return samples
    known = {sample.group for sample in samples}
    patterns = []
    for part in filter(None, (part.strip() for part in groups.split(","))):
        plain = not set(part) & set("*?[")
        patterns.append(f"*{part}" if plain and part not in known else part)
    if not patterns:
        raise DatasetError(f"no group in {groups!r}")
    return select_groups(samples, patterns)


def evaluate(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    *,
    dataset: str,
    split: str,
    options: SegmentOptions | None = None,
    progress: Progress = iter,
) -> Evaluation:
    """Segment every sample and compare it with its annotation.

    Args:
        segmenter: The file to measure.
        samples: At least one.
        dataset: Name of the data set.
        split: Which part of it, for people.
        options: Thresholds and resolution; the contract's own by default.
        progress: Shows how far the work is.

    Raises:
        DatasetError: There is no sample, or one is unreadable.
    """
    if not samples:
        raise DatasetError("there is no image to evaluate on")
    options = options or SegmentOptions()
    results = []
    for sample in progress(samples):
        pixels, truth = sample.read()
        segmentation = segmenter.segment(pixels, options=options)
        results.append(
            ImageResult(
                stem=sample.stem,
                group=sample.group,
                kind=sample.kind,
                pixels=count_pixels(truth, segmentation.labels),
                instances=count_instances(truth, segmentation.labels),
                components=_count_components(segmentation.labels),
                levels=count_levels(truth, segmentation.probability),
            )
        )
    session, resolved = segmentation.model, segmentation.options
    return Evaluation(
        dataset=dataset,
        split=split,
        model={
            "name": session.contract.name,
            "version": session.contract.version,
            "sha256": session.digest,
            "provider": session.provider,
        },
        separation={
            "probability_threshold": resolved.probability_threshold,
            "seed_threshold": resolved.seed_threshold,
            "min_area_px": resolved.min_area_px,
            "min_mean_probability": resolved.min_mean_probability,
        },
        test_time_augmentation=resolved.test_time_augmentation,
        images=tuple(results),
        seen=seen(session.contract, {sample.group for sample in samples}),
    )


def figures(images: Sequence[ImageResult]) -> dict[str, float]:
    """Figures pooled over images: ratios of sums, counts compared image by image.

    Args:
        images: At least one.

    Returns:
        Name to value; ratios are 0..1, biases signed. A figure that these images do not define
        (R2 of one image, the bias where nothing is annotated) is left out.
    """
    pixels = sum((i.pixels for i in images[1:]), start=images[0].pixels)
    instances = sum((i.instances for i in images[1:]), start=images[0].instances)
    levels = _pool_levels(images)
    components = sum(image.components for image in images)
    counts = compare_counts(
        [image.instances.truth_count for image in images],
        [image.instances.predicted_count for image in images],
    )
    values = {
        "dice": pixels.dice,
        "iou": pixels.iou,
        "pixel_accuracy": pixels.accuracy,
        "aji": instances.aji,
        "pq": instances.panoptic_quality,
        "dq": instances.detection_quality,
        "sq": instances.segmentation_quality,
        "f1_at_0.5": instances.f1,
        "dice_mean": float(np.mean([image.pixels.dice for image in images])),
        "aji_mean": float(np.mean([image.instances.aji for image in images])),
        "auc": levels.auc,
        "average_precision": levels.average_precision,
        "ece": levels.expected_calibration_error,
        "truth_count": counts.truth_total,
        "predicted_count": counts.predicted_total,
        "count_bias": counts.bias,
        "count_mape": counts.mape,
        "count_r2": counts.r2,
        "count_difference_mean": counts.mean_difference,
        "count_difference_lower": counts.lower_limit,
        "count_difference_upper": counts.upper_limit,
        "component_count": components,
        "component_bias": (components / counts.truth_total - 1 if counts.truth_total else None),
        "merged_nucleus_risk": (
            1 - components / counts.predicted_total if counts.predicted_total else None
        ),
        "truth_foreground": pixels.truth_fraction,
        "predicted_foreground": pixels.predicted_fraction,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _pool_levels(images: Sequence[ImageResult]) -> ProbabilityHistogram:
    return sum((image.levels for image in images[1:]), start=images[0].levels)


def _count_components(labels: NDArray[np.int32]) -> int:
    count, _ = cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=8)
    return count - 1


def as_document(evaluation: Evaluation) -> dict[str, Any]:
    """The whole evaluation as it stands in `metrics.json`."""
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "model": evaluation.model,
        "separation": evaluation.separation,
        "test_time_augmentation": evaluation.test_time_augmentation,
        "seen": evaluation.seen,
        # Binary masks know no touching nuclei: their objects are connected components.
        "annotation": sorted({image.kind for image in evaluation.images}),
        "pooled": evaluation.pooled,
        "bootstrap": None if (drawn := evaluation.bootstrap()) is None else drawn.document(),
        "groups": evaluation.by_group(),
        "images": [
            {"stem": image.stem, "group": image.group, **figures([image])}
            for image in evaluation.images
        ],
        "curves": curves(evaluation.levels),
    }


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write `metrics.json`; the folder exists."""
    text = json.dumps(as_document(evaluation), indent=2)
    text = _NUMBER_LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    path.write_text(text + "\n", encoding="utf-8")
