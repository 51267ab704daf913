"""Pictures of a run: its curves, and predictions beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.history import read_history

Prediction = tuple[str, NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]
"""Name, RGB (H, W, 3), truth (H, W) bool, probability (H, W) uint8."""


def plot_curves(history: Path, path: Path) -> None:
    """Draw loss, Dice, IoU and average precision of training and validation over epochs.

    Args:
        history: a history.csv with at least one row.
        path: PNG to write.
    """
    rows = read_history(history)
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    panels = [
        ("loss", "loss"),
        ("dice", "foreground Dice"),
        ("iou", "foreground IoU"),
        ("average_precision", "average precision"),
    ]
    for axis, (key, title) in zip(axes, panels, strict=True):
        axis.plot(epochs, [row[key] for row in rows], label="training (augmented crops)")
        axis.plot(epochs, [row[f"val_{key}"] for row in rows], label="validation patients")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=100)


def plot_roc_and_precision_recall(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], path: Path
) -> None:
    """Draw ROC and precision-recall curves of one or several models.

    Args:
        curves: by name, cumulative hits and false alarms from the highest threshold down, as
            `PixelHistogram.curves` gives them.
        path: PNG to write.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    roc, precision_recall = figure.subplots(1, 2)
    for name, (hits, false_alarms) in curves.items():
        recall = hits / max(hits[-1], 1)
        roc.plot(false_alarms / max(false_alarms[-1], 1), recall, label=name)
        precision_recall.plot(recall[1:], hits[1:] / np.maximum(hits[1:] + false_alarms[1:], 1))
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC, pixels")
    precision_recall.set(xlabel="recall", ylabel="precision", title="Precision-recall, pixels")
    precision_recall.set_ylim(0, 1.02)
    roc.legend(loc="lower right")
    for axis in (roc, precision_recall):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_predictions(rows: Sequence[Prediction], path: Path) -> None:
    """Draw images, truth, prediction and their agreement side by side.

    Args:
        rows: the predictions, one a row.
        path: PNG to write.
    """
    figure = Figure(figsize=(12, 3.1 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for axes, (name, pixels, truth, level) in zip(grid, rows, strict=True):
        found = level >= 128
        agreement = np.full(pixels.shape, 255, np.uint8)
        agreement[truth & found] = (120, 170, 120)
        agreement[truth & ~found] = (210, 60, 50)
        agreement[~truth & found] = (60, 90, 210)
        pictures = (pixels, truth, level, agreement)
        titles = (name, "truth", "probability", "hit green, missed red, false alarm blue")
        for axis, picture, title in zip(axes, pictures, titles, strict=True):
            axis.imshow(picture, cmap="gray", interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    figure.savefig(path, dpi=80)
