"""`docs/results/`: everything that was measured on the models, side by side, made by one command.

Reads what training and exporting left behind (`records`), measures what a model costs on this
machine (`cost`), draws (`plots`, `fields`) and writes one page that a pathologist and an engineer
can both read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from export.errors import ExportRefusedError
from export.fields import write_fields
from export.plots import plot_reliability, plot_roc_and_precision_recall, plot_training
from export.records import read_ablations, read_folds, read_models, read_runs
from export.results_sections import (
    ablations_section,
    costs_section,
    external_section,
    fields_section,
    folds_section,
    head_section,
    models_section,
    patients_section,
    picture_section,
)

PAGE: Final = "README.md"
MOST_PICTURE_BYTES: Final = 150_000
MOST_BYTES: Final = 2_000_000
"""Of all files together: pictures that a repository carries for ever stay modest."""

_TRAINING, _ROC, _RELIABILITY = "training.png", "roc_precision_recall.png", "reliability.png"
_INGREDIENTS: Final = "ablations.md"
"""What `benchmarks.ablations` writes beside the page."""


@dataclass(frozen=True, slots=True)
class ResultsOrder:
    """What to report on.

    Attributes:
        runs_dir: Folder of run folders.
        models_dirs: Folders of `<name>/<version>/`, the one with the default model first.
        out: Folder to write.
        data: The validation data set's folder, for pictures; None leaves them out.
        ablations: List of what was tried; None leaves the table out.
        repeats: Timed runs of each model.
        command: What was typed, for the page.
    """

    runs_dir: Path
    models_dirs: tuple[Path, ...]
    out: Path
    data: Path | None
    ablations: Path | None
    repeats: int
    command: str


def write_results(order: ResultsOrder) -> list[Path]:
    """Write the page and its pictures.

    Returns:
        The files written.

    Raises:
        ExportRefusedError: There is no model with figures, an ablation names a run that is not
            there, or the pictures are too large.
        ModelContractError: A file is no model.
        training.datasets.DatasetError: Unusable data.
    """
    runs = read_runs(order.runs_dir)
    records = read_models(order.models_dirs, runs, repeats=order.repeats)
    ablations = read_ablations(order.ablations) if order.ablations else []
    order.out.mkdir(parents=True, exist_ok=True)
    pictures = []
    trained = [(record.title, record.run) for record in records if record.run is not None]
    if plot_training(trained, order.out / _TRAINING):
        pictures.append(_TRAINING)
    if plot_roc_and_precision_recall(records, order.out / _ROC):
        pictures.append(_ROC)
    if plot_reliability(records, order.out / _RELIABILITY):
        pictures.append(_RELIABILITY)
    fields = write_fields(records[0], order.data, order.out) if order.data else {}
    sections = [
        head_section(records, order.command),
        models_section(records),
        costs_section(records, timed=order.repeats > 0),
        picture_section(
            "Training", _TRAINING, pictures, "Validation figures by epoch, threshold 0.5."
        ),
        picture_section(
            "ROC, precision and recall", _ROC, pictures, "Pixels of the validation images."
        ),
        picture_section(
            "Is a probability of 0.8 right in 8 of 10?",
            _RELIABILITY,
            pictures,
            "On the grey line a stated probability is the share of pixels that are nucleus. ECE is "
            "the mean distance from it.",
        ),
        fields_section(fields, records[0]),
        external_section(records),
        folds_section(read_folds(order.runs_dir)),
        patients_section(records),
        ablations_section(
            ablations,
            runs,
            ingredients=_INGREDIENTS if (order.out / _INGREDIENTS).is_file() else None,
        ),
    ]
    page = order.out / PAGE
    page.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    written = [page, *(order.out / name for name in (*pictures, *fields))]
    _check_sizes(written)
    return written


def _check_sizes(paths: Sequence[Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in paths}
    large = [name for name, size in sizes.items() if name != PAGE and size > MOST_PICTURE_BYTES]
    if large or sum(sizes.values()) > MOST_BYTES:
        raise ExportRefusedError(f"the pictures are too large to be committed: {sizes}")
