"""`docs/results/`: everything that was measured on the models, side by side, made by one command.

Reads what training and exporting left behind (`records`), measures what a model costs on this
machine (`cost`), draws (`plots`, `fields`) and writes one page that a pathologist and an engineer
can both read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.cost import TILE_PX, machine
from export.errors import ExportRefusedError
from export.fields import write_fields
from export.plots import plot_reliability, plot_roc_and_precision_recall, plot_training
from export.records import (
    Ablation,
    ModelRecord,
    TrainingRun,
    read_ablations,
    read_models,
    read_runs,
)

PAGE: Final = "README.md"
MOST_PICTURE_BYTES: Final = 150_000
MOST_BYTES: Final = 2_000_000
"""Of all files together: pictures that a repository carries for ever stay modest."""

_TRAINING, _ROC, _RELIABILITY = "training.png", "roc_precision_recall.png", "reliability.png"
_COLUMNS: Final = (
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("pixel_accuracy", "accuracy"),
    ("auc", "AUC"),
    ("average_precision", "AP"),
    ("aji", "AJI"),
    ("pq", "PQ"),
    ("f1_at_0.5", "F1@0.5"),
    ("count_bias", "count bias"),
    ("count_mape", "MAPE"),
    ("count_r2", "R2"),
)
_PERCENT: Final = {"count_bias": "+.1%", "count_mape": ".1%"}
_BRIEF: Final = (
    ("VGG16-U-Net of the brief", "0.78-0.85", "0.65-0.74"),
    ("ResNet50-U-Net of the brief", "blank mask", "blank mask"),
    ("EfficientNetB0-U-Net of the brief", "poor", "poor"),
)


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
        _head(records, order),
        _models(records),
        _costs(records, timed=order.repeats > 0),
        _picture("Training", _TRAINING, pictures, "Validation figures by epoch, threshold 0.5."),
        _picture("ROC, precision and recall", _ROC, pictures, "Pixels of the validation images."),
        _picture(
            "Is a probability of 0.8 right in 8 of 10?",
            _RELIABILITY,
            pictures,
            "On the grey line a stated probability is the share of pixels that are nucleus. ECE is "
            "the mean distance from it.",
        ),
        _fields(fields, records[0]),
        _external(records),
        _patients(records),
        _ablations(ablations, runs),
    ]
    page = order.out / PAGE
    page.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    written = [page, *(order.out / name for name in (*pictures, *fields))]
    _check_sizes(written)
    return written


def _head(records: Sequence[ModelRecord], order: ResultsOrder) -> str:
    validation = records[0].validation
    return f"""# Results

Made by

```sh
{order.command}
```

Nothing here was typed by hand. Every model was run through the service's own segmentation, so
these are figures of what is served. Unless said otherwise they are of
{len(validation["images"])} images of {validation["dataset"]}, {validation["split"]}: patients whose
images no model has learnt from, but on which thresholds were chosen, so that new patients will do a
little worse.

**Dice** and **IoU** say how well the area of nuclei is found, **AJI**, **PQ** and **F1@0.5** how
well single nuclei are, **count bias** how many too many (+) or too few (-) are counted.
Definitions: [model contract](../model-contract.md#measuring-a-file)."""


def _models(records: Sequence[ModelRecord]) -> str:
    head = [title for _, title in _COLUMNS]
    rows = [
        [_name(record), *(_cell(record.validation["pooled"], name) for name, _ in _COLUMNS)]
        for record in records
    ]
    rows += [[name, dice, iou, *[""] * (len(_COLUMNS) - 2)] for name, dice, iou in _BRIEF]
    return f"""## All models

{_table(["model", *head], rows)}

The brief's rows are as the brief states them, on a split that it does not name and with no figure
of single nuclei or counts. Why its ResNet50 and EfficientNetB0 came out blank or poor, and what
keeps ours from it: [blank masks](../blank-masks.md)."""


def _costs(records: Sequence[ModelRecord], *, timed: bool) -> str:
    rows = [
        [
            _name(record),
            record.contract.training.encoder_weights,
            f"{record.cost.parameters / 1e6:.2f} M",
            f"{record.cost.gigaflops:.1f}",
            f"{record.cost.megabytes:.1f}",
            *([f"{record.cost.cpu_ms:.0f}"] if record.cost.cpu_ms is not None else []),
        ]
        for record in records
    ]
    head = ["model", "encoder starts from", "parameters", "GFLOP", "ONNX MB"]
    time = ""
    if timed:
        head.append("CPU ms")
        time = (
            f" CPU ms: processor time of one core, {machine()}, default CPU provider in float32."
            " GPU times are not in this table: none was measured by this command."
        )
    return f"""## What they cost

{_table(head, rows)}

Operations and time of one tile of {TILE_PX}x{TILE_PX} px; a multiplication and an addition count
as two.{time}"""


def _picture(title: str, name: str, pictures: Sequence[str], text: str) -> str:
    return f"## {title}\n\n{text}\n\n![{title}]({name})" if name in pictures else ""


def _fields(fields: dict[str, str], record: ModelRecord) -> str:
    if not fields:
        return ""
    shown = "\n\n".join(f"![{text}]({name})" for name, text in fields.items())
    return f"""## A sparse and a dense field

{record.title}, the validation fields with the fewest and the most annotated nuclei. Left the image,
middle the annotation (green), right the model (yellow). TNBC, Naylor et al., CC BY 4.0.

{shown}"""


def _external(records: Sequence[ModelRecord]) -> str:
    rows = [
        [
            _name(record),
            dataset,
            str(len(document["images"])),
            *(_cell(document["pooled"], name) for name, _ in _COLUMNS),
        ]
        for record in records
        for dataset, document in record.external.items()
    ]
    if not rows:
        return ""
    head = ["model", "data", "images", *(title for _, title in _COLUMNS)]
    return f"""## Data that nothing was trained or tuned on

{_table(head, rows)}"""


def _patients(records: Sequence[ModelRecord]) -> str:
    blocks = []
    for record in records:
        groups = record.validation["groups"]
        rows = [
            [group, f"{values['truth_count']:.0f}", f"{values['predicted_count']:.0f}"]
            + [_cell(values, name) for name, _ in _COLUMNS]
            for group, values in groups.items()
        ]
        head = ["patient", "nuclei", "found", *(title for _, title in _COLUMNS)]
        blocks.append(f"{_name(record)}\n\n{_table(head, rows)}")
    return "## Patient by patient\n\n" + "\n\n".join(blocks)


def _ablations(ablations: Sequence[Ablation], runs: Sequence[TrainingRun]) -> str:
    if not ablations:
        return ""
    by_name = {run.folder.name: run for run in runs}
    rows = []
    for ablation in ablations:
        missing = [name for name in (ablation.run, ablation.against) if name not in by_name]
        if missing:
            raise ExportRefusedError(f"an ablation names the run {missing[0]}, which is not there")
        dice = by_name[ablation.run].best("val_dice")
        against = by_name[ablation.against].best("val_dice")
        if dice is None or against is None:
            raise ExportRefusedError(f"{ablation.run} or {ablation.against} has no val_dice")
        rows.append(
            [
                ablation.what,
                f"`{ablation.run}`",
                f"{dice:.4f}",
                f"`{ablation.against}`",
                f"{against:.4f}",
                f"{dice - against:+.4f}",
                ablation.remark,
            ]
        )
    head = ["tried", "run", "Dice", "against", "its Dice", "change", "remark"]
    return f"""## What was tried

Best validation Dice over the epochs of each run (Keras, threshold 0.5). One seed each: a change of
less than about 0.005 may be luck.

{_table(head, rows)}"""


def _name(record: ModelRecord) -> str:
    return f"`{record.contract.name}` {record.contract.version}"


def _cell(values: dict[str, Any], name: str) -> str:
    return format(values[name], _PERCENT.get(name, ".3f")) if name in values else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _check_sizes(paths: Sequence[Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in paths}
    large = [name for name, size in sizes.items() if name != PAGE and size > MOST_PICTURE_BYTES]
    if large or sum(sizes.values()) > MOST_BYTES:
        raise ExportRefusedError(f"the pictures are too large to be committed: {sizes}")
