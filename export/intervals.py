"""Calibrate the interval of a count on patients that the counting model never saw.

Cross-validation gives for every image a count by a model that learnt from other patients. How far
those counts were off says how far a new patient's may be (conformal prediction; Vovk, Gammerman
and Shafer 2005). With a number `r` the interval of a count is

    predicted +- r (predicted + 10), rounded outward to whole nuclei, not below 0

and the score of an image is the `r` above which its interval holds the annotated count. Errors grow
with the count, but not from nothing: without the ten, an image in which nothing is found would have
the interval 0 to 0, however many nuclei were missed. Scoring the rounded interval and not the error
itself keeps the rounding from widening it twice (nested conformal; Gupta et al., Pattern
Recognition 2022).

Images of one patient err alike, so an image weighs one over the number of its patient's images and
every patient counts the same. `r` lies just above the weighted quantile of all scores and one more
at infinity, for the image to come, whose weight follows from Kish's effective number of images.
That suits images that tell more than their patient. Where those of one patient tell nothing beyond
the first, all that is certain is `level x patients / (patients + 1)` (Lee, Barber and Willett,
"Distribution-free inference with hierarchical data", 2023), and no finite interval of 90 % can be
promised by fewer than nine patients. So coverage is measured as well: each patient in turn is left
out, the interval is calibrated on the others, and the patient's own images are tried.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from export.errors import ExportRefusedError
from service.inference.contract import CountIntervalSpec
from service.segmentation.augmentation import TestTimeAugmentation
from service.segmentation.intervals import interval_of_count

FLOOR_COUNT: Final = 10
"""Nuclei added to a count before errors are compared with it; a tenth of a usual TNBC image."""

LEAST_PATIENTS: Final = 3


@dataclass(frozen=True, slots=True)
class CountPair:
    """One image that a model of cross-validation had not learnt from.

    Attributes:
        patient: Whose image it is.
        image: Its name.
        predicted: Nuclei found.
        truth: Nuclei annotated.
    """

    patient: str
    image: str
    predicted: int
    truth: int


@dataclass(frozen=True, slots=True)
class HeldOutCounts:
    """The counts of a whole cross-validation.

    Attributes:
        pairs: One entry an image.
        test_time_augmentation: The copies of each tile that were averaged.
        sources: Data set, split and model file of each part.
    """

    pairs: tuple[CountPair, ...]
    test_time_augmentation: TestTimeAugmentation = "none"
    sources: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HeldOutPatient:
    """How an interval calibrated on the other patients fared on this one.

    Attributes:
        patient: Whose images were tried.
        images: How many they are.
        covered: How many of their annotated counts lay within.
        mean_width: Mean width, nuclei.
    """

    patient: str
    images: int
    covered: int
    mean_width: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """The leave-one-patient-out check.

    Attributes:
        images: Share of all images covered, 0..1.
        patients: Mean over patients of the share of their images covered, 0..1.
        mean_width: Mean width over images, nuclei.
        median_relative_width: Median over images of width / predicted count; images in which
            nothing was found are left out.
        by_patient: Each patient.
    """

    images: float
    patients: float
    mean_width: float
    median_relative_width: float
    by_patient: tuple[HeldOutPatient, ...]


@dataclass(frozen=True, slots=True)
class IntervalCalibration:
    """What goes into `intervals.json`.

    Attributes:
        spec: What goes into a model's contract.
        coverage: How often the interval held on left-out patients.
        guaranteed: Least coverage where images of one patient are wholly alike, 0..1.
        sources: Data set, split and model file of each input.
    """

    spec: CountIntervalSpec
    coverage: Coverage
    guaranteed: float
    sources: tuple[dict[str, str], ...]

    def write(self, path: Path) -> None:
        """Write `intervals.json`; the folder exists."""
        document = {
            "count_interval": self.spec.model_dump(mode="json"),
            "coverage": asdict(self.coverage),
            "guaranteed": self.guaranteed,
            "assumes": "new patients, stains and scanners like those calibrated on, images of like "
            "size, and a released model that errs like the models of the cross-validation",
            "sources": self.sources,
        }
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_counts(paths: Sequence[Path]) -> HeldOutCounts:
    """Read what `python -m export evaluate` wrote for each model of a cross-validation.

    Args:
        paths: `metrics.json` files; together each image once.

    Raises:
        ExportRefusedError: A file is unreadable or of an older version, an image comes twice,
            nuclei are not annotated one by one, the model was trained on a patient, or files were
            made under different augmentation.
    """
    pairs: dict[tuple[str, str], CountPair] = {}
    sources: list[dict[str, str]] = []
    augmentations: set[TestTimeAugmentation] = set()
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["annotation"] != ["instances"]:
                raise ExportRefusedError(f"{path}: binary masks do not tell nuclei apart")
            # Files of older versions do not tell.
            if trained := document.get("seen", {}).get("training"):
                raise ExportRefusedError(
                    f"{path}: the model was trained on {', '.join(trained)}, so its errors there "
                    "say nothing of new patients; evaluate the ones held out, with --groups"
                )
            model = document["model"]
            sources.append(
                {
                    "dataset": document["dataset"],
                    "split": document["split"],
                    "model": f"{model['name']}:{model['version']}",
                    "sha256": model["sha256"],
                }
            )
            augmentations.add(document["test_time_augmentation"])
            for image in document["images"]:
                key = document["dataset"], image["stem"]
                if key in pairs:
                    raise ExportRefusedError(
                        f"{path}: {image['stem']} came before; an image is held out once"
                    )
                pairs[key] = CountPair(
                    patient=image["group"],
                    image=image["stem"],
                    predicted=round(image["predicted_count"]),
                    truth=round(image["truth_count"]),
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportRefusedError(
                f"{path} is no metrics.json of `python -m export evaluate`: {error!r}"
            ) from error
    if len(augmentations) != 1:
        raise ExportRefusedError(
            f"measured under different test-time augmentation: {sorted(augmentations)}"
        )
    return HeldOutCounts(tuple(pairs.values()), augmentations.pop(), tuple(sources))


def calibrate_intervals(counts: HeldOutCounts, *, level: float = 0.9) -> IntervalCalibration:
    """Find the interval of a count, and how often it holds on patients left out.

    Args:
        counts: Of at least three patients, each by a model that has not seen the patient.
        level: Nominal coverage, 0..1.

    Raises:
        ExportRefusedError: Too few patients, or too few images for the level.
    """
    pairs = counts.pairs
    patients = sorted({pair.patient for pair in pairs})
    if len(patients) < LEAST_PATIENTS:
        raise ExportRefusedError(
            f"intervals need held-out images of {LEAST_PATIENTS} patients or more, not "
            f"{len(patients)}"
        )
    by_patient, widths = [], []
    for patient in patients:
        others = [pair for pair in pairs if pair.patient != patient]
        own = [pair for pair in pairs if pair.patient == patient]
        others_quantile = _quantile(others, level)
        ends = [_ends(pair.predicted, others_quantile) for pair in own]
        covered = sum(
            low <= pair.truth <= high for pair, (low, high) in zip(own, ends, strict=True)
        )
        own_widths = [high - low for low, high in ends]
        widths += [(width, pair.predicted) for width, pair in zip(own_widths, own, strict=True)]
        by_patient.append(HeldOutPatient(patient, len(own), covered, float(np.mean(own_widths))))
    coverage = Coverage(
        images=sum(item.covered for item in by_patient) / len(pairs),
        patients=float(np.mean([item.covered / item.images for item in by_patient])),
        mean_width=float(np.mean([width for width, _ in widths])),
        median_relative_width=float(
            np.median([width / predicted for width, predicted in widths if predicted] or [0.0])
        ),
        by_patient=tuple(by_patient),
    )
    spec = CountIntervalSpec(
        level=level,
        **_numbers(_quantile(pairs, level)),
        method=f"split conformal by patient, {len(pairs)} images of {len(patients)} patients",
        images=len(pairs),
        patients=len(patients),
        test_time_augmentation=counts.test_time_augmentation,
        coverage=round(coverage.images, 4),
    )
    return IntervalCalibration(
        spec=spec,
        coverage=coverage,
        guaranteed=level * len(patients) / (len(patients) + 1),
        sources=counts.sources,
    )


def read_intervals(path: Path) -> CountIntervalSpec:
    """Read what `python -m export intervals` wrote, for a contract.

    Raises:
        ExportRefusedError: It is no such file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return CountIntervalSpec.model_validate(document["count_interval"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ExportRefusedError(
            f"{path} is no intervals.json of `python -m export intervals`: {error}"
        ) from error


def _quantile(pairs: Sequence[CountPair], level: float) -> float:
    """The weighted conformal quantile of the scores; see the top of this module."""
    truth = np.array([pair.truth for pair in pairs], dtype=np.float64)
    predicted = np.array([pair.predicted for pair in pairs], dtype=np.float64)
    # Rounding outward gives each end up to one nucleus.
    scores = np.maximum(np.abs(truth - predicted) - 1, 0) / (predicted + FLOOR_COUNT)
    weights = _weights([pair.patient for pair in pairs])
    effective = 1.0 / float((weights**2).sum())
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) * effective / (effective + 1.0)
    position = int(np.searchsorted(reached, level - 1e-12))
    if position == len(scores):
        raise ExportRefusedError(
            f"{len(scores)} images of {len({pair.patient for pair in pairs})} patients, worth "
            f"{effective:.1f} independent ones, are too few for an interval of {level:.0%}: it "
            f"takes {level / (1 - level):.0f}"
        )
    return float(scores[order[position]])


def _weights(patients: Sequence[str]) -> NDArray[np.float64]:
    """One over the number of the patient's images, summing to 1."""
    _, index, images = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    weights = 1.0 / images[index]
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _numbers(quantile: float) -> dict[str, float]:
    # Above the quantile, not at it: there the interval just misses.
    reach = (math.floor(quantile * 1e4) + 1) / 1e4
    return {
        "lower_ratio": round(max(0.0, 1.0 - reach), 4),
        "upper_ratio": round(1.0 + reach, 4),
        "allowance": round(reach * FLOOR_COUNT, 3),
    }


def _ends(predicted: int, quantile: float) -> tuple[int, int]:
    """The interval as the service will state it, whole nuclei."""
    interval = interval_of_count(predicted, **_numbers(quantile), level=0.0, method="")
    return interval.lower, interval.upper
