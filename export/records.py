"""What the report is made of: every model of a folder, with its figures, curves and run."""

import csv
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.cost import Cost, measure_cost
from export.errors import ExportRefusedError
from export.onnx_file import read
from service.inference.choice import MODEL_FILE
from service.inference.contract import ModelContract
from service.inference.source import version_order
from training.lineage import INITIAL_FOLDER

METRICS_FILE: Final = "metrics.json"
_PREFIX: Final = "metrics_"
_OF_FOLD: Final = re.compile(r"fold\d+-")
"""Names of the models of a cross-validation, which stand in a table of their own."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run folder, as far as a report shows it.

    Attributes:
        folder: Where it lies.
        config_sha256: SHA-256 of its configuration, which the model's contract states too.
        history: One row an epoch, column name to value.
        budget: Steps x crops a step x side of a crop in pixels, of each stage, the first one first.
    """

    folder: Path
    config_sha256: str
    history: tuple[dict[str, float], ...]
    budget: tuple[str, ...] = ()

    def best(self, column: str) -> float | None:
        """The greatest value of a column, None where there is none."""
        values = [row[column] for row in self.history if column in row]
        return max(values) if values else None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A released model.

    Attributes:
        path: The file.
        contract: What it says of itself.
        cost: What it costs.
        validation: Content of `metrics.json`.
        external: Contents of `metrics_<data set>.json`, by data set.
        run: The run that made it, where its folder was found.
    """

    path: Path
    contract: ModelContract
    cost: Cost
    validation: Mapping[str, Any]
    external: Mapping[str, Mapping[str, Any]]
    run: TrainingRun | None

    @property
    def title(self) -> str:
        """Name for tables and legends."""
        return self.contract.name


@dataclass(frozen=True, slots=True)
class Fold:
    """One part of a cross-validation, of a model that was trained without the tested patients.

    Attributes:
        architecture: What was trained.
        tested: The patients, as their folder is named.
        evaluation: Content of its `metrics.json`.
    """

    architecture: str
    tested: str
    evaluation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One line of the table of what was tried.

    Attributes:
        what: What was changed, for people.
        against: The run that it is compared with.
        run: The changed run.
        remark: What came of it, or why.
    """

    what: str
    against: str
    run: str
    remark: str = ""


def read_runs(root: Path) -> list[TrainingRun]:
    """Read every run folder below a folder; those without a finished epoch are left out."""
    runs = []
    for config in sorted(root.glob("*/config.json")):
        history = config.with_name("history.csv")
        if not history.is_file():
            continue
        with history.open(encoding="utf-8", newline="") as file:
            rows = tuple(
                {key: float(value) for key, value in row.items() if value}
                for row in csv.DictReader(file)
            )
        if rows:
            digest = hashlib.sha256(config.read_bytes()).hexdigest()
            runs.append(TrainingRun(config.parent, digest, rows, tuple(_stages(config.parent))))
    return runs


def _stages(folder: Path) -> Iterator[str]:
    """Say what each stage of a run was given, as far as its records are at hand."""
    config = _json(folder / "config.json")
    if config.get("initial_model"):
        name = Path(config["initial_model"]).parent.name
        for earlier in (folder / INITIAL_FOLDER, folder.parent / name):
            if (earlier / "config.json").is_file():
                yield from _stages(earlier)
                break
        else:
            yield name
    steps = config["epochs"] * config["steps_per_epoch"]
    yield f"{steps} x {config['batch_size']} x {config['crop_px']}\u00b2"


def read_folds(root: Path) -> list[Fold]:
    """Read `folds/<architecture>/<patients>/metrics.json` below a folder of runs."""
    return [
        Fold(path.parents[1].name, path.parent.name, _json(path))
        for path in sorted(root.glob(f"folds/*/*/{METRICS_FILE}"))
    ]


def read_models(
    roots: Iterable[Path], runs: Sequence[TrainingRun], *, repeats: int
) -> list[ModelRecord]:
    """Read the newest version of every model below some folders, and measure its cost.

    Args:
        roots: Folders of `<name>/<version>/model.onnx` with `metrics.json` beside it; of a name
            that stands in several, the first is taken.
        runs: Where to look for the run of each.
        repeats: Timed runs of a tile; 0 leaves the times out.

    Raises:
        ExportRefusedError: There is no model with figures.
        ModelContractError: A file is no model.
    """
    by_digest = {run.config_sha256: run for run in runs}
    records: dict[str, ModelRecord] = {}
    for root in roots:
        for name, folder in _newest(root).items():
            if name in records:
                continue
            path = folder / MODEL_FILE
            _, contract = read(path)
            records[name] = ModelRecord(
                path=path,
                contract=contract,
                cost=measure_cost(path, repeats=repeats),
                validation=_json(folder / METRICS_FILE),
                external={
                    file.stem.removeprefix(_PREFIX): _json(file)
                    for file in sorted(folder.glob(f"{_PREFIX}*.json"))
                },
                run=by_digest.get(contract.training.config_sha256),
            )
    if not records:
        raise ExportRefusedError("no model with figures: expected <name>/<version>/metrics.json")
    return list(records.values())


def read_ablations(path: Path) -> list[Ablation]:
    """Read a list of runs to compare: tables `[[ablation]]` with `what`, `against`, `run`.

    Raises:
        ExportRefusedError: The file cannot be read, or a field is missing or unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return [Ablation(**entry) for entry in document.get("ablation", [])]
    except (OSError, ValueError, TypeError) as error:
        raise ExportRefusedError(f"{path} is no list of ablations: {error}") from error


def _newest(root: Path) -> dict[str, Path]:
    """Folder of the newest version of each model that has figures."""
    found: dict[str, Path] = {}
    for metrics in root.glob(f"*/*/{METRICS_FILE}"):
        folder = metrics.parent
        if not (folder / MODEL_FILE).is_file() or _OF_FOLD.match(folder.parent.name):
            continue
        known = found.get(folder.parent.name)
        if known is None or version_order(known.name) < version_order(folder.name):
            found[folder.parent.name] = folder
    return dict(sorted(found.items()))


def _json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
