"""Runs side by side: figures, differing settings, and whether they may be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from training.curve_plot import COLOURS, Curve, legend, plot
from training.findings import MEANINGS
from training.page import page, table, warning
from training.run_folder import RunFolderError, RunRecord, read_run_record

_PANELS: Final = (
    ("val_dice", "validation Dice"),
    ("val_average_precision", "validation average precision"),
    ("val_loss", "validation loss"),
    ("loss", "training loss"),
)
_UNSET: Final = "-"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs.

    Attributes:
        records: the runs, the one that the others are compared with first.
        doubts: why their figures may not be compared; empty where they may.
    """

    records: tuple[RunRecord, ...]
    doubts: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """A short name of each run that tells it from the others."""
        folders = [record.folder.resolve() for record in self.records]
        short = [folder.name for folder in folders]
        if len(set(short)) == len(short):
            return short
        return [f"{folder.parent.name}/{folder.name}" for folder in folders]

    def figures(self) -> list[list[str]]:
        """Rows of a table: figure, the value of each run and its difference from the first."""
        rows = []
        for key, (name, _) in MEANINGS.items():
            values = [record.best[key] for record in self.records]
            cells = [f"{value:.4f} ({value - values[0]:+.4f})" for value in values[1:]]
            rows.append([name, f"{values[0]:.4f}", *cells])
        rows.append(
            [
                "best epoch",
                *(f"{r.best['epoch']:.0f} of {len(r.history)}" for r in self.records),
            ]
        )
        rows.append(["minutes", *(f"{r.seconds / 60:.1f}" for r in self.records)])
        return rows

    def differences(self) -> list[list[str]]:
        """Rows of a table: the settings in which the runs differ, and the value of each run."""
        settings = [_flat(record.config.model_dump(mode="json")) for record in self.records]
        names = list(dict.fromkeys(name for values in settings for name in values))
        return [
            [name, *(_text(values.get(name)) for values in settings)]
            for name in names
            if len({_text(values.get(name)) for values in settings}) > 1
        ]


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read runs and find out whether their figures may be compared.

    Args:
        folders: two run folders or more.

    Raises:
        RunFolderError: fewer than two, one twice, or a folder that is no run.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunFolderError("a comparison needs two or more different run folders; name them all")
    records = tuple(read_run_record(folder) for folder in folders)
    doubts = [doubt for record in records[1:] for doubt in _doubts(records[0], record)]
    return Comparison(records, tuple(dict.fromkeys(doubts)))


def _doubts(first: RunRecord, other: RunRecord) -> list[str]:
    """Why the figures of two runs may not be compared."""
    one, two = first.folder.name, other.folder.name
    judged = [_stems(record, "validation") for record in (first, other)]
    found = []
    if judged[0] != judged[1]:
        parts = [
            f"{len(alone)} only by {name} ({_some(alone)})"
            for name, alone in ((one, judged[0] - judged[1]), (two, judged[1] - judged[0]))
            if alone
        ]
        found.append(
            f"{one} and {two} were judged on different images, {' and '.join(parts)}: train one of "
            "them again with the other's validation_groups, or judge both with "
            "`python -m training evaluate` on the same patients."
        )
    elif (changed := _changed(first, other)) is not None:
        found.append(changed)
    if first.config.crop_px != other.config.crop_px and judged[0] == judged[1]:
        found.append(
            f"{one} was judged on tiles of {first.config.crop_px} px and {two} on tiles of "
            f"{other.config.crop_px} px: differences of a hundredth of Dice mean nothing."
        )
    for record, held_out in ((first, judged[1]), (other, judged[0])):
        seen = _stems(record, "train") & held_out
        if seen:
            found.append(
                f"{record.folder.name} was trained on {len(seen)} of the images that the other is "
                f"judged on ({_some(seen)})."
            )
    return found


def _stems(record: RunRecord, split: str) -> set[tuple[str, str]]:
    """Names of source and image."""
    return {
        (source, stem)
        for source, groups in record.images(split).items()
        for stems in groups.values()
        for stem in stems
    }


def _some(stems: set[tuple[str, str]]) -> str:
    named = sorted(stem for _, stem in stems)
    return ", ".join(named[:3]) + (" ..." if len(named) > 3 else "")


def _changed(first: RunRecord, other: RunRecord) -> str | None:
    """Whether the content of the validation images differs behind the same names."""
    for source in first.images("validation"):
        one, two = first.splits[source], other.splits[source]
        # Runs of older versions know the digest of the whole folder alone.
        known = "validation_sha256" in one and "validation_sha256" in two
        key = "validation_sha256" if known else "sha256"
        if one.get(key) != two.get(key):
            what = "validation images or annotations" if known else "files"
            return (
                f"The {what} of {source} changed between {first.folder.name} and "
                f"{other.folder.name} (SHA-256 differs): figures on other pixels are no comparison."
            )
    return None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; data sources by their own name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key == "data":
            for source in value:
                flat |= _flat({k: v for k, v in source.items() if k != "name"}, source["name"])
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[f"{prefix}.{key}" if prefix else key] = value
    return flat


def _text(value: Any) -> str:
    if value is None or value == "":
        return _UNSET
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the tables, and the doubts in red."""
    for title, rows in (
        ("best epoch of each run, validation (difference from the first)", comparison.figures()),
        ("configured differently", comparison.differences()),
    ):
        if not rows:
            console.print("nothing is configured differently")
            continue
        shown = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        shown.add_column("")
        for name in comparison.names:
            shown.add_column(name, justify="right", overflow="fold")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    for doubt in comparison.doubts:
        console.print("not comparable: ", style="bold red", end="")
        console.print(doubt, markup=False, highlight=False, soft_wrap=True)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML page.

    Args:
        comparison: the runs.
        path: `.html` file; its folder is made.
    """
    names = comparison.names
    plots = []
    for key, title in _PANELS:
        curves = [
            Curve(
                name,
                [(row["epoch"], row[key]) for row in record.history],
                COLOURS[number % len(COLOURS)],
                dashed=number >= len(COLOURS),
                mark=record.best["epoch"],
            )
            for number, (name, record) in enumerate(zip(names, comparison.records, strict=True))
        ]
        plots.append(plot(title, curves))
    differences = comparison.differences()
    body = [
        f"<h1>{escape(' against '.join(names))}</h1>",
        (
            '<p class="lead">The best epoch of each run on its validation patients; in brackets '
            "the difference from the first. Pixels alone: which model counts better is told by "
            "<code>python -m export compare OLD.onnx NEW.onnx DATA</code>.</p>"
        ),
        *(warning(f"Not comparable. {doubt}") for doubt in comparison.doubts),
        table(["figure", *names], comparison.figures(), 1),
        '<h2>Curves</h2><div class="plots">',
        *plots,
        "</div>",
        legend(curves),
        "<h2>Configured differently</h2>",
        table(["setting", *names], differences) if differences else "<p>Nothing.</p>",
        "<h2>What the figures mean</h2>",
        table(["figure", "meaning"], list(MEANINGS.values())),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page("Runs compared", body), encoding="utf-8")
