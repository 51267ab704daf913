"""The history of a run: one row an epoch, in `history.csv`; free of Keras."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from training.config import TrainingConfig

Row = dict[str, float]
"""Name of a figure to its value; `epoch` counts from 1, validation figures begin with `val_`."""


def read_history(path: Path) -> list[Row]:
    """Rows of a history.csv, empty without a file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows of a history.csv, atomically."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)  # noqa: PTH105  atomic, and says so


def score(row: Row, config: TrainingConfig) -> float:
    """The monitored value of an epoch, turned so that more is better."""
    value = row[config.monitor]
    return -value if config.monitor == "val_loss" else value


def best_row(rows: Sequence[Row], config: TrainingConfig) -> Row:
    """The epoch whose model was kept: the first of the best.

    Args:
        rows: at least one.
        config: which figure is monitored.
    """
    return max(rows, key=lambda row: score(row, config))
