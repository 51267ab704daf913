"""The report's plots: all models in each of them, small enough to be committed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from export.records import ModelRecord, TrainingRun

_DPI: Final = 80


def plot_training(runs: Sequence[tuple[str, TrainingRun]], path: Path) -> bool:
    """Draw validation Dice and loss over epochs, all runs in one plot.

    Args:
        runs: Name for the legend, and run.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    if not runs:
        return False
    figure = _figure()
    panels = zip(
        figure.subplots(1, 2),
        (("val_dice", "Dice, validation patients"), ("val_loss", "loss, validation patients")),
        strict=True,
    )
    for axis, (column, title) in panels:
        for name, run in runs:
            rows = [row for row in run.history if column in row]
            axis.plot([row["epoch"] for row in rows], [row[column] for row in rows], label=name)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    _save(figure, path)
    return True


def plot_roc_and_precision_recall(records: Sequence[ModelRecord], path: Path) -> bool:
    """Draw ROC and precision-recall over the pixels of validation, all models in one plot.

    Models whose `metrics.json` holds no curves are left out.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [record for record in records if record.validation.get("curves")]
    if not drawn:
        return False
    figure = _figure()
    roc, precision_recall = figure.subplots(1, 2)
    for record in drawn:
        curves, pooled = record.validation["curves"], record.validation["pooled"]
        roc.plot(
            curves["roc"]["false_positive_rate"],
            curves["roc"]["true_positive_rate"],
            label=f"{record.title}, AUC {_number(pooled, 'auc')}",
        )
        precision_recall.plot(
            curves["precision_recall"]["recall"],
            curves["precision_recall"]["precision"],
            label=f"{record.title}, AP {_number(pooled, 'average_precision')}",
        )
    roc.set(title="ROC over pixels", xlabel="false positive rate", ylabel="true positive rate")
    precision_recall.set(
        title="precision and recall over pixels", xlabel="recall", ylabel="precision"
    )
    for axis in (roc, precision_recall):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small", loc="lower left" if axis is precision_recall else "best")
    _save(figure, path)
    return True


def plot_reliability(records: Sequence[ModelRecord], path: Path) -> bool:
    """Draw how often a stated probability is right, all models in one plot.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [record for record in records if record.validation.get("curves")]
    if not drawn:
        return False
    figure = _figure(width=5.0)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for record in drawn:
        reliability = record.validation["curves"]["reliability"]
        axis.plot(
            reliability["stated"],
            reliability["observed"],
            marker=".",
            label=f"{record.title}, ECE {_number(record.validation['pooled'], 'ece')}",
        )
    axis.set(
        title="reliability over pixels",
        xlabel="stated probability of nucleus",
        ylabel="share that is nucleus",
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    _save(figure, path)
    return True


def _figure(width: float = 10.0) -> Figure:
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    # Neither date nor version in the file: the same figures give the same bytes.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _number(values: dict[str, Any], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else "-"
