"""The sections of the results page, in Markdown; each is empty where there is nothing to say."""

from collections.abc import Sequence
from typing import Any, Final

from export.cost import TILE_PX, machine
from export.errors import ExportRefusedError
from export.records import Ablation, Fold, ModelRecord, TrainingRun

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


def head_section(records: Sequence[ModelRecord], command: str) -> str:
    """What this page is, and how it was made."""
    validation = records[0].validation
    return f"""# Results

Made by

```sh
{command}
```

Nothing here was typed by hand. Every model was run through the service's own segmentation, so
these are figures of what is served. Unless said otherwise they are of
{len(validation["images"])} images of {validation["dataset"]}, {validation["split"]}: patients whose
images no model has learnt from, but on which thresholds were chosen, so that new patients will do a
little worse.

**Dice** and **IoU** say how well the area of nuclei is found, **AJI**, **PQ** and **F1@0.5** how
well single nuclei are, **count bias** how many too many (+) or too few (-) are counted.
Definitions: [model contract](../model-contract.md#measuring-a-file)."""


def models_section(records: Sequence[ModelRecord]) -> str:
    """The figures of every model, and the brief's own."""
    head = [title for _, title in _COLUMNS]
    rows = [
        [_name(record), *(_cell(record.validation["pooled"], name) for name, _ in _COLUMNS)]
        for record in records
    ]
    rows += [[name, dice, iou, *[""] * (len(_COLUMNS) - 2)] for name, dice, iou in _BRIEF]
    return f"""## All models

{_table(["model", *head], rows)}

{_protocol(records)}The brief's rows are as the brief states them, on a split that it does not name
and with no figure of single nuclei or counts. Why its ResNet50 and EfficientNetB0 came out blank or
poor, and what keeps ours from it: [blank masks](../blank-masks.md)."""


def _protocol(records: Sequence[ModelRecord]) -> str:
    """What the rows of `benchmarks.protocol` have in common."""
    if not any(record.title.startswith("protocol-") for record in records):
        return ""
    return """The rows `protocol-...` compare architectures: one split, augmentation, loss and
schedule for all (`python -m benchmarks.protocol architectures`), and few steps, so that they fit on
two cores. Encoders for which no ImageNet weights were at hand start from random weights, and so
short a training does not judge them fairly. What each was given stands in the next table; only
EfficientNetB0, from random weights, has more steps and a higher learning rate.

"""


def costs_section(records: Sequence[ModelRecord], *, timed: bool) -> str:
    """Parameters, operations, bytes and time of every model."""
    rows = [
        [
            _name(record),
            _start(record),
            _budget(record),
            f"{record.cost.parameters / 1e6:.2f} M",
            f"{record.cost.gigaflops:.1f}",
            f"{record.cost.megabytes:.1f}",
            *([f"{record.cost.cpu_ms:.0f}"] if record.cost.cpu_ms is not None else []),
        ]
        for record in records
    ]
    head = ["model", "encoder starts from", "training", "parameters", "GFLOP", "ONNX MB"]
    time = ""
    if timed:
        head.append("CPU ms")
        time = (
            f" CPU ms: processor time of one core, {machine()}, default CPU provider in float32."
            " GPU times are not in this table: none was measured by this command."
        )
    return f"""## What they cost

{_table(head, rows)}

Training: steps x crops a step x pixels of a crop. Operations and time of one tile of
{TILE_PX}x{TILE_PX} px; a multiplication and an addition count as two.{time}"""


def picture_section(title: str, name: str, pictures: Sequence[str], text: str) -> str:
    """One plot, where it was drawn."""
    return f"## {title}\n\n{text}\n\n![{title}]({name})" if name in pictures else ""


def fields_section(fields: dict[str, str], record: ModelRecord) -> str:
    """The pictures of two fields."""
    if not fields:
        return ""
    shown = "\n\n".join(f"![{text}]({name})" for name, text in fields.items())
    return f"""## A sparse and a dense field

{record.title}, the validation fields with the fewest and the most annotated nuclei. Left the image,
middle the annotation (green), right the model (yellow). TNBC, Naylor et al., CC BY 4.0.

{shown}"""


def external_section(records: Sequence[ModelRecord]) -> str:
    """Every model on data that nothing was tuned on."""
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


def folds_section(folds: Sequence[Fold]) -> str:
    """Cross-validation, where it was run."""
    blocks = []
    for architecture in dict.fromkeys(fold.architecture for fold in folds):
        chosen = [fold for fold in folds if fold.architecture == architecture]
        pooled = [fold.evaluation["pooled"] for fold in chosen]
        rows = [
            [fold.tested, str(len(fold.evaluation["images"]))]
            + [_cell(fold.evaluation["pooled"], name) for name, _ in _COLUMNS]
            for fold in chosen
        ]
        means = {
            name: sum(values[name] for values in pooled) / len(pooled)
            for name, _ in _COLUMNS
            if all(name in values for values in pooled)
        }
        rows.append(["mean of the folds", "", *(_cell(means, name) for name, _ in _COLUMNS)])
        head = ["patients tested", "images", *(title for _, title in _COLUMNS)]
        blocks.append(f"`{architecture}`\n\n{_table(head, rows)}")
    if not blocks:
        return ""
    return (
        "## Every patient tested once\n\n"
        "Cross-validation (`python -m benchmarks.protocol folds`): each fold trains without the"
        " patients it tests, and its thresholds come from two others.\n\n" + "\n\n".join(blocks)
    )


def patients_section(records: Sequence[ModelRecord]) -> str:
    """Every model, patient by patient."""
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


def ablations_section(
    ablations: Sequence[Ablation], runs: Sequence[TrainingRun], *, ingredients: str | None = None
) -> str:
    """What was tried, and what came of it.

    Args:
        ablations: The lines of the table.
        runs: The runs that they name.
        ingredients: Page of `benchmarks.ablations`, where there is one.

    Raises:
        ExportRefusedError: An ablation names a run that is not there or has no Dice.
    """
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
    more = ""
    if ingredients is not None:
        more = (
            "\n\nOne ingredient of the training at a time, against the spread of seeds, here and on"
            f" images of other laboratories: [what each is worth]({ingredients})."
        )
    return f"""## What was tried

Best validation Dice over the epochs of each run (Keras, threshold 0.5). One seed each: a change of
less than about 0.005 may be luck.

{_table(head, rows)}{more}"""


def _start(record: ModelRecord) -> str:
    weights = record.contract.training.encoder_weights
    return "random weights" if weights == "none" else weights


def _budget(record: ModelRecord) -> str:
    return ", then ".join(record.run.budget) if record.run else "-"


def _name(record: ModelRecord) -> str:
    return f"`{record.contract.name}` {record.contract.version}"


def _cell(values: dict[str, Any], name: str) -> str:
    return format(values[name], _PERCENT.get(name, ".3f")) if name in values else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
