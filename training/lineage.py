"""What a run keeps of the runs that it builds on; free of Keras, the exporter reads it."""

import shutil
from pathlib import Path

INITIAL_FOLDER = "initial"
"""Folder of a run that keeps the record of the run whose model it started from."""

RECORDS = ("config.json", "data.json")
"""Files of a run folder that tell what its weights have seen."""


def teacher_folder(number: int) -> str:
    """Name of the folder of a run that keeps the record of a teacher, counted from 1."""
    return f"teacher{number}"


def copy_records(earlier: Path, target: Path) -> None:
    """Keep the record of an earlier run, and of those before it, in a run that builds on it.

    Without it nobody could tell any more which patients the weights have seen.

    Args:
        earlier: folder of the earlier run; one that is no run folder leaves nothing to keep.
        target: `INITIAL_FOLDER` or a `teacher_folder` of the new run.
    """
    for name in RECORDS:
        if (earlier / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(earlier / name, target / name)
    for folder in sorted(earlier.glob(f"{INITIAL_FOLDER}/")) + sorted(
        earlier.glob("teacher[0-9]*/")
    ):
        copy_records(folder, target / folder.name)
