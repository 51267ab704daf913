"""What a run keeps of the run whose model it started from; free of Keras, the exporter reads it."""

import shutil
from pathlib import Path

INITIAL_FOLDER = "initial"
"""Folder of a run that keeps the record of the run whose model it started from."""

RECORDS = ("config.json", "data.json")
"""Files of a run folder that tell what its weights have seen."""


def copy_records(earlier: Path, run_dir: Path) -> None:
    """Keep the record of an earlier run, and of those before it, in a run that starts from it.

    Without it nobody could tell any more which patients the weights have seen.

    Args:
        earlier: folder of the initial model; one that is no run folder leaves nothing to keep.
        run_dir: folder of the run that starts.
    """
    target = run_dir / INITIAL_FOLDER
    for name in RECORDS:
        if (earlier / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(earlier / name, target / name)
    if (earlier / INITIAL_FOLDER).is_dir():
        copy_records(earlier / INITIAL_FOLDER, target)
