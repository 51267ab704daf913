"""The report of a run: one HTML page that stands alone."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from training.best_model import load_best_model
from training.curve_plot import Curve, legend, plot
from training.datasets import DatasetError
from training.drawing import FALSE_ALARM, MISSED, PREDICTED, TRUTH, Colour
from training.findings import MEANINGS, findings
from training.page import card, command, page, picture, table, warning
from training.run_folder import RunFolderError, RunRecord, read_run_record, recorded_data_root
from training.sources import locate, read_sources
from training.tiles import JudgedTile, judge_tiles

REPORT_FILE: Final = "report.html"
SHOWN_TILES: Final = 3
"""So many of the worst, and so many of the best."""

TRAINING_COLOUR: Final = "#c8553d"
VALIDATION_COLOUR: Final = "#0b6e4f"
_PANELS: Final = (("loss", "loss"), ("dice", "Dice"), ("average_precision", "average precision"))
_LISTED_PATIENTS: Final = 12
_PIXELS_TOGETHER: Final = 4 * 256**2


def write_report(
    run_dir: Path, data_root: Path, tiles: Sequence[JudgedTile], why_no_tiles: str = ""
) -> Path:
    """Write `report.html` into a run folder.

    Args:
        run_dir: the run folder, with one finished epoch at least.
        data_root: where the recipe's relative paths start; the commands to copy name it.
        tiles: validation tiles, worst first; may be empty.
        why_no_tiles: said where there are none.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: the folder is no run.
    """
    record = read_run_record(run_dir)
    best = record.best
    body = [
        f"<h1>{escape(run_dir.resolve().name)}: {escape(record.config.architecture)}</h1>",
        f'<p class="lead">{escape(_summary(record))}</p>',
        '<div class="cards">',
        *(
            card(f"{best[key]:.3f}", name, meaning)
            for key, (name, meaning) in MEANINGS.items()
            if key != "val_loss"
        ),
        "</div>",
        (
            f'<p class="note">Pixels of the validation patients at probability 0.5, epoch '
            f"{best['epoch']:.0f}. How well nuclei are told apart and counted is measured on the "
            "exported file, through the service's own code: see below.</p>"
        ),
        *(warning(text) for text in findings(record)),
        "<h2>Curves</h2>",
        *_curves(record),
        "<h2>Worst and best validation tiles</h2>",
        *_tiles(tiles, why_no_tiles),
        "<h2>Trained on, judged on</h2>",
        _data(record),
        "<h2>What to do next</h2>",
        *_next(record, data_root),
        "<h2>Configuration and environment</h2>",
        _settings(record),
    ]
    path = run_dir / REPORT_FILE
    path.write_text(page(f"{run_dir.resolve().name} - training report", body), encoding="utf-8")
    return path


def report_run(run_dir: Path, data_root: Path | None = None) -> Path:
    """Judge the validation tiles of a run and write its report.

    Args:
        run_dir: the run folder, with one finished epoch at least.
        data_root: where the recipe's relative paths start; where they started in training, if
            that is on record, else the working directory.

    Returns:
        The path of the page. Without the data it says so in place of the tiles.

    Raises:
        RunFolderError: the folder is no run.
    """
    record = read_run_record(run_dir)
    if data_root is None:
        data_root = recorded_data_root(run_dir)
    tiles: list[JudgedTile] = []
    why_none = ""
    try:
        _, validation = read_sources(record.config, data_root)
        model = load_best_model(run_dir)
    except (DatasetError, RunFolderError) as error:
        why_none = (
            f"No tiles: {error}. `python -m training report {run_dir} --data-root DIR` draws them "
            "once the data is there."
        )
    else:
        samples = [sample for held_out in validation.values() for sample in held_out]
        crop_px = record.config.crop_px
        # As many pixels at once as a training step has at least; small tiles go together.
        together = max(record.config.batch_size, _PIXELS_TOGETHER // crop_px**2)
        tiles = judge_tiles(model, samples, crop_px, together)
    return write_report(run_dir, data_root, tiles, why_none)


def _summary(record: RunRecord) -> str:
    def count(split: str) -> str:
        groups = [g for source in record.images(split).values() for g in source.items()]
        images = sum(len(stems) for _, stems in groups)
        return f"{_many(images, 'image')} of {_many(len(groups), 'patient')}"

    started = f", started {record.sessions[0]['started_utc']}" if record.sessions else ""
    return (
        f"Trained on {count('train')}, judged on {count('validation')} that it never learnt from. "
        f"{_many(len(record.history), 'epoch')} in {_duration(record.seconds)}{started}. "
        "Research use only."
    )


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _curves(record: RunRecord) -> list[str]:
    plots, names = [], [("training (augmented crops)", ""), ("validation patients", "val_")]
    colours = (TRAINING_COLOUR, VALIDATION_COLOUR)
    for key, title in _PANELS:
        curves = [
            Curve(
                name,
                [(row["epoch"], row[prefix + key]) for row in record.history],
                colour,
                dashed=not prefix,
                mark=record.best["epoch"] if prefix else None,
            )
            for (name, prefix), colour in zip(names, colours, strict=True)
        ]
        plots.append(plot(title, curves))
    rates = [(row["epoch"], row["learning_rate"]) for row in record.history]
    plots.append(plot("learning rate", [Curve("", rates, "#4a5568")]))
    return [
        '<div class="plots">',
        *plots,
        "</div>",
        legend(curves),
        '<p class="note">The dot is the epoch whose model was kept.</p>',
    ]


def _tiles(tiles: Sequence[JudgedTile], why_none: str) -> list[str]:
    if not tiles:
        return [warning(why_none or "No validation tile holds a nucleus.")]

    def swatch(colour: Colour, name: str) -> str:
        return f'<span class="swatch" style="background:rgb{colour}"></span>{name}'

    names = (
        (TRUTH, "annotated outline"),
        (PREDICTED, "predicted outline"),
        (MISSED, "missed"),
        (FALSE_ALARM, "found in error"),
    )
    body = [
        '<p class="note">From left to right: image, annotation, prediction, errors.</p>',
        f'<p class="legend">{" ".join(swatch(*entry) for entry in names)}</p>',
    ]
    worst = tiles[:SHOWN_TILES]
    best = tiles[max(len(tiles) - SHOWN_TILES, SHOWN_TILES) :][::-1]
    for rank, shown in (("worst", worst), ("best", best)):
        body += [
            picture(
                tile.picture(),
                f"{rank}: {tile.stem} ({tile.group}) from {tile.corner[0]}, {tile.corner[1]} px: "
                f"Dice {tile.dice:.3f}",
            )
            for tile in shown
        ]
    return body


def _data(record: RunRecord) -> str:
    rows = []
    for split, role in (("train", "training"), ("validation", "validation")):
        for name, groups in record.images(split).items():
            listed = ", ".join(list(groups)[:_LISTED_PATIENTS])
            more = len(groups) - _LISTED_PATIENTS
            rows.append(
                [
                    role,
                    name,
                    listed + (f" and {more} more" if more > 0 else ""),
                    str(len(groups)),
                    str(sum(map(len, groups.values()))),
                ]
            )
    return table(["role", "data", "patients or slides", "how many", "images"], rows, 3)


def _next(record: RunRecord, data_root: Path) -> list[str]:
    held = next(source for source in record.config.data if source.validation_groups)
    data, groups = locate(held, data_root), list(held.validation_groups)
    python = ("python", "-m")
    patterns = [word for pattern in groups for word in ("--groups", pattern)]
    return [
        "<p>Look at whole images, with ROC and precision-recall curves:</p>",
        command(*python, "training", "evaluate", record.folder, data, *patterns),
        "<p>See it beside an earlier run:</p>",
        command(*python, "training", "compare", "OTHER_RUN", record.folder),
        (
            "<p>Make the model file that the service runs, with thresholds and counts measured "
            "through the service's own code:</p>"
        ),
        command(
            *(*python, "export", "model", record.folder, "--validation", data),
            *("--groups", ",".join(groups), "--name", "mine", "--version", "1.0.0"),
            *("--data-root", data_root, "--out", "models"),
        ),
        (
            "<p>Before it is released, see whether it counts better than the file in use, on "
            "patients that neither was made with: this run's validation patients chose its best "
            "epoch, and its thresholds in the command above.</p>"
        ),
        command(
            *(*python, "export", "compare", "OLD/model.onnx", "models/mine/1.0.0/model.onnx"),
            "OTHER_PATIENTS",
        ),
    ]


def _settings(record: RunRecord) -> str:
    config = record.config.model_dump(mode="json")
    del config["data"]
    rows = [[key, _text(value)] for key, value in config.items()]
    for source in record.config.data:
        values = source.model_dump(mode="json", exclude={"name"})
        rows.append([f"data: {source.name}", _text(values)])
    for number, session in enumerate(record.sessions, start=1):
        rows.append([f"started, time {number}", _text(session)])
    return table(["setting", "value"], rows)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)
