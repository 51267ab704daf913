"""The folder of a run: may it be written, what stands in it, and reading it again.

Free of Keras, so that looking at runs starts no backend.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.config import TrainingConfig, load_config
from training.datasets import Sample, dataset_digest
from training.history import Row, best_row, read_history
from training.revision import source_revision

ENVIRONMENT_FILE: Final = "environment.json"
"""One entry each time that the run was started: when, on what, from where."""

Splits = Mapping[str, Mapping[str, Any]]
"""`data.json`: source name to digests and, for `train` and `validation`, patient to image names."""


class RunFolderError(ValueError):
    """A run folder that cannot be started, resumed or read; the message names fault and remedy."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        folder: the run folder.
        config: what was trained.
        splits: which image of which patient was in which split.
        history: one row an epoch, at least one.
        sessions: one entry each time that the run was started; empty for runs of older versions.
    """

    folder: Path
    config: TrainingConfig
    splits: Splits
    history: tuple[Row, ...]
    sessions: tuple[Mapping[str, Any], ...]

    @property
    def best(self) -> Row:
        """The epoch whose model is `model.keras`."""
        return best_row(self.history, self.config)

    @property
    def seconds(self) -> float:
        """Time of all epochs, s."""
        return sum(row["seconds"] for row in self.history)

    def images(self, split: str) -> dict[str, dict[str, list[str]]]:
        """Image names by source and patient of `train` or `validation`, empty sources left out."""
        found = {name: dict(record.get(split, {})) for name, record in self.splits.items()}
        if split == "train":
            weights = {source.name: source.weight for source in self.config.data}
            found = {name: groups for name, groups in found.items() if weights.get(name, 1) > 0}
        return {name: groups for name, groups in found.items() if groups}


def read_run_record(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        RunFolderError: it is none, or has no finished epoch.
    """
    config = read_configuration(folder)
    try:
        splits = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        history = read_history(folder / "history.csv")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(
            f"{folder}: data.json or history.csv is missing or spoilt; copy the run folder again "
            "from where it was trained"
        ) from error
    if not history:
        raise RunFolderError(
            f"{folder}: no epoch was finished; `python -m training resume {folder}` goes on"
        )
    return RunRecord(folder, config, splits, tuple(history), tuple(_sessions(folder)))


def read_configuration(folder: Path) -> TrainingConfig:
    """Read what a run trains.

    Raises:
        RunFolderError: the folder is none of a run.
    """
    if not (folder / "config.json").is_file():
        raise RunFolderError(
            f"{folder}: no run folder, config.json is missing; give the folder that was --run-dir "
            "of `python -m training fit`"
        )
    return load_config(folder / "config.json")


def check_folder(config: TrainingConfig, run_dir: Path, *, resume: bool) -> None:
    """Refuse a folder that must not or cannot be written, before anything is read or computed.

    Raises:
        RunFolderError: it holds another run, nothing to resume, or cannot be written.
    """
    saved = run_dir / "config.json"
    if resume:
        _check_resumable(config, run_dir)
    elif saved.exists():
        raise RunFolderError(f"{run_dir}: holds a run already; resume it or choose another folder")
    try:
        # Permissions, read-only disks and files in place of folders all show when one writes.
        with tempfile.TemporaryFile(dir=_existing(run_dir)):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{run_dir}: cannot be written ({error.strerror}); choose another --run-dir"
        ) from error


def check_free_space(run_dir: Path, parameters: int) -> None:
    """Refuse a disk that would be full after the first epoch.

    Args:
        run_dir: folder of the run, which need not exist.
        parameters: numbers in the model.

    Raises:
        RunFolderError: less is free than the model, the state to resume from and their
            half-written successors take.
    """
    # float32; the state holds the weights and two moments of Adam, and the average of weights.
    needed_bytes = 4 * parameters * 2 * (1 + 4) + 20_000_000
    free_bytes = shutil.disk_usage(_existing(run_dir)).free
    if free_bytes < needed_bytes:
        raise RunFolderError(
            f"{run_dir}: {free_bytes / 1e6:.0f} MB are free and this run takes about "
            f"{needed_bytes / 1e6:.0f} MB; free some, or choose another --run-dir"
        )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _check_resumable(config: TrainingConfig, run_dir: Path) -> None:
    saved = run_dir / "config.json"
    state_file = run_dir / "state.npz"
    if not saved.is_file() or not (state_file.is_file() or _ended_in_first_epoch(run_dir)):
        raise RunFolderError(
            f"{run_dir}: no interrupted run to resume; it is complete, or is no run folder: start "
            "another one with `python -m training fit`"
        )
    # By value: a run of an older version has no entry for a setting that is new since.
    if load_config(saved) != config:
        raise RunFolderError(
            f"{run_dir}: the configuration differs from that of the interrupted run; resume "
            f"with {saved}, or start another folder"
        )
    if not state_file.is_file():
        return
    with np.load(state_file) as state:
        digest = str(state["configuration"]) if "configuration" in state.files else None
    if digest not in (None, configuration_digest(saved.read_text(encoding="utf-8"))):
        raise RunFolderError(
            f"{saved}: was changed since the run was interrupted; undo the change to resume, or "
            "start another folder with `python -m training fit` and this file as the recipe"
        )


def _ended_in_first_epoch(run_dir: Path) -> bool:
    """Whether a run was killed before its first state was saved: it begins again."""
    finished = any((run_dir / name).is_file() for name in ("metrics.json", "curves.png"))
    return not finished and len(read_history(run_dir / "history.csv")) <= 1


def write_data_record(
    run_dir: Path,
    config: TrainingConfig,
    train: Mapping[str, Sequence[Sample]],
    validation: Mapping[str, Sequence[Sample]],
) -> None:
    """Write `data.json`, or compare with the one of the interrupted run.

    Raises:
        RunFolderError: the data is no longer what the run started with.
    """
    record = {
        source.name: {
            "sha256": dataset_digest([*train[source.name], *validation[source.name]]),
            "validation_sha256": dataset_digest(validation[source.name]),
            "train": _by_group(train[source.name]),
            "validation": _by_group(validation[source.name]),
        }
        for source in config.data
    }
    path = run_dir / "data.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in record.items():
            if before.get(name, {}).get("sha256") != entry["sha256"]:
                raise RunFolderError(
                    f"{run_dir}: the files of {name} changed since this run was started; put them "
                    "back to resume, or start another folder with `python -m training fit`"
                )
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_environment(run_dir: Path, data_root: Path, backend: Mapping[str, str]) -> None:
    """Append an entry to `environment.json`.

    Args:
        run_dir: folder of the run; it exists.
        data_root: where the recipe's relative paths started.
        backend: what the caller knows of Keras, its backend and devices.
    """
    entry = {
        "started_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data_root": str(data_root.absolute()),
        "source_revision": source_revision(),
        "python": platform.python_version(),
        **backend,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    }
    text = json.dumps([*_sessions(run_dir), entry], indent=2) + "\n"
    (run_dir / ENVIRONMENT_FILE).write_text(text, encoding="utf-8")


def recorded_data_root(run_dir: Path) -> Path:
    """Where the recipe's relative paths started when the run was last started.

    Runs of older versions did not write it down: then the working directory.
    """
    sessions = _sessions(run_dir)
    return Path(sessions[-1]["data_root"]) if sessions else Path()


def configuration_digest(text: str) -> str:
    """SHA-256 of a `config.json`."""
    return hashlib.sha256(text.encode()).hexdigest()


def _sessions(folder: Path) -> list[dict[str, Any]]:
    path = folder / ENVIRONMENT_FILE
    if not path.is_file():
        return []
    sessions = json.loads(path.read_text(encoding="utf-8"))
    return list(sessions)


def _by_group(samples: Sequence[Sample]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample.stem)
    return groups
