"""The model card: what a person must know before trusting a model file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from export.calibrate import Calibration
from export.contract import TrainedRun, encoder_origin
from export.evaluate import Evaluation
from service.inference.contract import ModelContract

_OBJECTIVE_UM: Final = 10.0
"""Resolution times magnification by the field's convention: 0.25 um/px is called 40x, 0.5 20x."""

_HEADINGS = (
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("pixel_accuracy", "pixel accuracy"),
    ("aji", "AJI"),
    ("pq", "PQ"),
    ("f1_at_0.5", "F1@0.5"),
    ("truth_count", "nuclei"),
    ("predicted_count", "found"),
    ("count_bias", "count bias"),
    ("count_mape", "count MAPE"),
    ("count_r2", "count R2"),
)


def write_card(
    path: Path,
    contract: ModelContract,
    *,
    run: TrainedRun,
    calibration: Calibration,
    evaluations: Sequence[Evaluation],
    commands: Sequence[str],
) -> None:
    """Write `card.md`.

    Args:
        path: The file; its folder exists.
        contract: Of the released file.
        run: The training run.
        calibration: How the thresholds were chosen.
        evaluations: The validation split first, then any external data.
        commands: What to type to make the file again, in order.
    """
    sections = [
        f"# {contract.name} {contract.version}",
        contract.description,
        _use(contract),
        _files(contract),
        _data(contract),
        _metrics(evaluations),
        _thresholds(contract, calibration),
        _limits(contract),
        _making(contract, run, commands),
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _use(contract: ModelContract) -> str:
    return f"""## Intended use

**Research use only; no medical device, not for diagnosis.** Segments and counts nuclei in
haematoxylin-and-eosin-stained histology like the training data below, at about
{contract.input.mpp:g} um/px ({_OBJECTIVE_UM / contract.input.mpp:.0f}x).
Images of another scale are resampled where their scale is known, so state `mpp` where you can.
A person reviews every result before anything is decided on it."""


def _files(contract: ModelContract) -> str:
    sizes, output = contract.input, contract.output
    origin = contract.training.encoder_weights
    storage = "float32"
    if contract.weight_storage == "float16":
        storage = (
            "float16, rounded before the comparison with Keras; the run's own model keeps float32"
        )
    return f"""## The file

| | |
|---|---|
| architecture | `{contract.architecture}`, encoder's first weights: {origin} |
| input | `{sizes.name}`, {sizes.dtype}, {sizes.layout}, {sizes.colour}, sides multiples of \
{sizes.divisor} px |
| output | `{output.name}`, {output.dtype}: {", ".join(output.channels)} |
| tiles | {sizes.tile_px} px with a halo of {sizes.halo_px} px |
| weights | stored in {storage}; computed in float32 |
| equals Keras | within {contract.verification.max_difference} of 255 on every pixel of \
{contract.verification.tiles} tiles, against {contract.verification.against} |
| contract | version {contract.contract_version}, in the file's metadata (docs/model-contract.md) |
| written | {contract.created_utc} |"""


def _data(contract: ModelContract) -> str:
    rows = "\n".join(
        f"| {source.name} | {source.use} | {source.licence} | {source.attribution} "
        f"| {source.source} |"
        for source in contract.training.data
    )
    return f"""## Data, licences and attribution

| data | use | licence | attribution | source |
|---|---|---|---|---|
{rows}

Splits are by patient or slide, never by tile; exact images are in the run folder's `data.json`."""


def _metrics(evaluations: Sequence[Evaluation]) -> str:
    columns = [(name, title) for name, title in _HEADINGS]
    head = "| data | split | images | " + " | ".join(title for _, title in columns) + " |"
    rule = "|---" * (len(columns) + 3) + "|"
    rows = []
    for evaluation in evaluations:
        pooled = evaluation.pooled
        cells = [_cell(name, pooled) for name, _ in columns]
        rows.append(
            f"| {evaluation.dataset} | {evaluation.split} | {len(evaluation.images)} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(
        [
            "## Measured",
            "",
            "Through the service's own segmentation, at the thresholds below. Dice, IoU and",
            "accuracy are pooled over pixels, the rest over nuclei. Thresholds were chosen on the",
            "validation split, so its figures are a little better than new patients will give.",
            "",
            head,
            rule,
            *rows,
            "",
            "Each image's figures are in `metrics.json`, pictures in `predictions.jpg`.",
        ]
    )


def _cell(name: str, values: dict[str, float]) -> str:
    if name not in values:
        return "-"
    if name in {"truth_count", "predicted_count"}:
        return f"{values[name]:.0f}"
    if name == "count_bias":
        return f"{values[name]:+.1%}"
    return f"{values[name]:.1%}" if name == "count_mape" else f"{values[name]:.3f}"


def _thresholds(contract: ModelContract, calibration: Calibration) -> str:
    chosen = contract.separation
    return f"""## Thresholds

| probability | seed | least area | least mean probability |
|---|---|---|---|
| {chosen.probability_threshold:g} | {chosen.seed_threshold:g} | {chosen.min_area_um2:g} um2 | \
{chosen.min_mean_probability:g} |

Chosen from {len(calibration.trials)} combinations on {len(calibration.images)} images of
{", ".join(calibration.groups)} for the greatest (Dice + F1@0.5) / 2 less the mean over patients of
|count bias|, averaged over neighbours on the grid; the best of them are in `calibration.json`."""


def _limits(contract: ModelContract) -> str:
    interval = contract.count_interval
    stated = (
        f"is meant to hold for {interval.level:.0%} of images like the {interval.images} of "
        f"{interval.patients} patients calibrated on{_covered(interval.coverage)}"
        if interval
        else "is not calibrated: the count comes without one"
    )
    return f"""## Limits

- An interval of the count {stated}.
- Trained on the data above and nothing else: other stains, scanners, thick or folded tissue,
  frozen sections and cytology are untested.
- All kinds of nuclei are counted alike, lymphocytes and stroma as well as tumour.
- Annotators leave faint nuclei out, so a found nucleus that is not annotated may be real.
- A scale wrong by a factor of two makes counts useless; an image without `mpp` is taken to be at
  {contract.input.mpp:g} um/px."""


def _covered(coverage: float | None) -> str:
    if coverage is None:
        return ""
    return f"; with each patient left out in turn it held for {coverage:.0%}"


def _making(contract: ModelContract, run: TrainedRun, commands: Sequence[str]) -> str:
    lines = "\n".join(commands)
    blocks = []
    for number, stage in enumerate(run.stages, 1):
        title = f"stage {number}" if run.earlier else "configuration"
        blocks += [
            _configuration(part, f"{title}: teacher {index}, stage {part_number}")
            for index, teacher in enumerate(stage.teachers, 1)
            for part_number, part in enumerate(teacher.stages, 1)
        ]
        blocks.append(_configuration(stage, title))
    configurations = "\n\n".join(blocks)
    return f"""## How it was made

```sh
{lines}
```

Source revision `{contract.training.source_revision}`; `config.json`, SHA-256
`{contract.training.config_sha256}`, here without its folders:

{configurations}"""


def _configuration(run: TrainedRun, title: str) -> str:
    config = run.config.model_dump(mode="json")
    # Folders of the machine that trained are nobody's business.
    if config["encoder_weights"] is not None:
        config["encoder_weights"] = encoder_origin(config["encoder_weights"])
    for source in config["data"]:
        source["path"] = Path(source["path"]).name
    return f"""<details><summary>{title}</summary>

```json
{json.dumps(config, indent=2, sort_keys=True)}
```

</details>"""
