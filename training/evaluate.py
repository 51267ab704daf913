"""Judging a trained Keras model on whole annotated images, pixel by pixel.

Counting and instance figures are not judged here: they depend on how the service separates nuclei,
so `python -m export evaluate` measures them on the exported file, through the service's own code.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.architectures import DIVISOR
from training.best_model import load_best_model
from training.datasets import read_dataset, select_groups
from training.report import Prediction, plot_predictions, plot_roc_and_precision_recall
from training.run_folder import read_configuration
from training.sources import group_pattern_for

LEVELS = 256
"""Probabilities are counted in 256 levels, the resolution of the exported model's output."""


@dataclass(frozen=True, slots=True)
class PixelHistogram:
    """How many pixels of each class got each probability: all pixel figures follow from it.

    Attributes:
        nucleus: (256,) pixels of nuclei by predicted level.
        background: (256,) other pixels by predicted level.
    """

    nucleus: NDArray[np.int64]
    background: NDArray[np.int64]

    @classmethod
    def of(cls, nucleus: NDArray[np.bool_], level: NDArray[np.uint8]) -> "PixelHistogram":
        """Count one image: truth (H, W) bool, prediction (H, W) uint8."""
        if nucleus.shape != level.shape:
            raise ValueError(f"truth {nucleus.shape} and prediction {level.shape} differ in shape")
        return cls(
            np.bincount(level[nucleus], minlength=LEVELS),
            np.bincount(level[~nucleus], minlength=LEVELS),
        )

    def __add__(self, other: "PixelHistogram") -> "PixelHistogram":
        return PixelHistogram(self.nucleus + other.nucleus, self.background + other.background)

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Hits and false alarms (257,) when all levels from the i-th highest on are called nucleus.

        The first entry calls nothing nucleus, the last one everything.
        """
        hits = np.concatenate([[0], np.cumsum(self.nucleus[::-1])]).astype(float)
        false_alarms = np.concatenate([[0], np.cumsum(self.background[::-1])]).astype(float)
        return hits, false_alarms

    def figures(self, threshold: float = 0.5) -> dict[str, float]:
        """Dice, IoU, accuracy at a threshold; AUC and average precision over all thresholds.

        Average precision is the sum of precision times the step in recall, without interpolation
        (as scikit-learn's). AUC is the trapezoidal area under ROC. Both are NaN where a class is
        missing.
        """
        first = int(np.ceil(threshold * (LEVELS - 1)))
        hit = float(self.nucleus[first:].sum())
        missed = float(self.nucleus[:first].sum())
        false_alarm = float(self.background[first:].sum())
        rejected = float(self.background[:first].sum())
        wrong = missed + false_alarm
        hits, false_alarms = self.curves()
        both = hits[-1] > 0 and false_alarms[-1] > 0
        precision = hits[1:] / np.maximum(hits[1:] + false_alarms[1:], 1)
        return {
            "dice": 2 * hit / (2 * hit + wrong) if hit + wrong else 1.0,
            "iou": hit / (hit + wrong) if hit + wrong else 1.0,
            "accuracy": (hit + rejected) / (hit + rejected + wrong),
            "auc": float(np.trapezoid(hits / hits[-1], false_alarms / false_alarms[-1]))
            if both
            else float("nan"),
            "average_precision": float(np.sum(precision * np.diff(hits / hits[-1])))
            if both
            else float("nan"),
            "foreground_ratio": (hit + false_alarm) / (hit + missed)
            if hit + missed
            else float("nan"),
        }


def predict_level(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Predict the nucleus probability of a whole image.

    Args:
        model: a model of `ARCHITECTURES`.
        pixels: (H, W, 3) uint8 RGB of any size; completed to a multiple of 32 by reflection.

    Returns:
        (H, W) uint8, 0..255 for 0..1.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0)), "symmetric")
    maps = keras.ops.convert_to_numpy(model(padded[None].astype(np.float32), training=False))
    return np.asarray(np.rint(maps[0, :height, :width, 0] * 255), np.uint8)


def _defined(figures: Mapping[str, float | str]) -> dict[str, float | str | None]:
    """Null for what is undefined, as the AUC of an image without nuclei: JSON knows no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }


def evaluate_run(
    run_dir: Path,
    data: Path,
    out: Path,
    groups: Sequence[str] = ("*",),
    *,
    group_pattern: str | None = None,
) -> dict[str, float]:
    """Judge a run's best model on a folder of annotated images.

    Writes `metrics.json` (pooled over pixels, and per image), `curves.png` (ROC and
    precision-recall) and `predictions.png` to `out`.

    Args:
        run_dir: a run folder with `model.keras`.
        data: a folder that `training.datasets.read_dataset` reads.
        out: folder to write.
        groups: shell patterns of the patients to judge on.
        group_pattern: regular expression from file stem to patient; the recipe's by default.

    Returns:
        The pooled figures.

    Raises:
        training.datasets.DatasetError: unusable data.
        RunFolderError: no model in the run folder.
    """
    model = load_best_model(run_dir)
    config = read_configuration(run_dir)
    pattern = group_pattern or group_pattern_for(config, data)
    samples = select_groups(read_dataset(data, group_pattern=pattern), groups)
    total = PixelHistogram(np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))
    images: dict[str, dict[str, float | str]] = {}
    shown: list[tuple[float, Prediction]] = []
    for sample in samples:
        pixels, labels = sample.read()
        level = predict_level(model, pixels)
        histogram = PixelHistogram.of(labels > 0, level)
        total = total + histogram
        figures = histogram.figures()
        images[sample.stem] = {"group": sample.group, **figures}
        shown.append((figures["dice"], (sample.stem, pixels, labels > 0, level)))
    pooled = total.figures()
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "architecture": config.architecture,
        "data": data.name,
        "groups": list(groups),
        "pooled": _defined(pooled),
        "images": {stem: _defined(figures) for stem, figures in images.items()},
    }
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    (out / "metrics.json").write_text(text, encoding="utf-8")
    plot_roc_and_precision_recall({config.architecture: total.curves()}, out / "curves.png")
    # The best and the worst, so that the picture does not flatter.
    ranked = [prediction for _, prediction in sorted(shown, key=itemgetter(0))]
    plot_predictions(
        ranked if len(ranked) <= 4 else [*ranked[:2], *ranked[-2:]], out / "predictions.png"
    )
    return pooled
