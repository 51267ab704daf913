"""Who had a part in making a model file: figures on those patients are no fresh sample."""

import re
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.markup import escape

from service.inference.contract import ModelContract

CALIBRATED_ON: Final = "validation and calibration"
"""How the split of a released model's own figures begins: its thresholds were chosen there."""


def seen(contract: ModelContract, patients: Iterable[str]) -> dict[str, list[str]]:
    """Patients that had a part in making a file, as its contract lists them.

    Args:
        contract: Of the file.
        patients: Whom it is judged on.

    Returns:
        Patients by what was done on them: `training`, `best epoch` (chosen on the run's validation
        patients) and `thresholds` (chosen on those that the export was given, for the least bias of
        the count: the figure that a comparison is about).
    """
    groups = set(patients)
    found: dict[str, set[str]] = {"training": set(), "best epoch": set(), "thresholds": set()}
    for source in contract.training.data:
        for use in source.use.split("; "):
            listed = re.fullmatch(r"([^:]*): [^(]*\((.*)\)", use)
            if listed:
                part = "training" if listed[1] == "training" else "best epoch"
                found[part] |= set(listed[2].split(", "))
    for entry in contract.metrics:
        role, _, listed_there = entry.split.partition(": ")
        if role == CALIBRATED_ON:
            found["thresholds"] |= set(listed_there.split(", "))
    return {part: sorted(groups & listed_then) for part, listed_then in found.items()}


def print_seen(role: str, found: dict[str, list[str]], console: Console) -> None:
    """Say which patients that a file is judged on had a part in making it.

    Args:
        role: What the file is called, as `old`.
        found: From `seen`.
        console: Where to.
    """
    if found["training"]:
        console.print(
            f"[bold red]the {role} file was trained on {escape(', '.join(found['training']))}[/]: "
            "its figures there say nothing of new ones; choose other patients with --groups",
            highlight=False,
            soft_wrap=True,
        )
    for part, was in (("best epoch", "best epoch was"), ("thresholds", "thresholds were")):
        if found[part]:
            console.print(
                f"[bold yellow]the {role} file's {was} chosen on "
                f"{escape(', '.join(found[part]))}[/]: its figures there flatter it; judge on "
                "patients that chose nothing before you release",
                highlight=False,
                soft_wrap=True,
            )
