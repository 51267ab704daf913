"""Fill in the model contract from a run folder, and check it twice before it is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jsonschema
from pydantic import ValidationError

from export.errors import ExportRefusedError
from service.inference.contract import (
    DataSource,
    InputSpec,
    MetricsEntry,
    ModelContract,
    OutputSpec,
    SeparationSpec,
    TrainingSpec,
    VerificationSpec,
    parse_contract,
)
from training.config import TrainingConfig, load_config
from training.lineage import INITIAL_FOLDER, teacher_folder
from training.revision import source_revision

DIVISOR_PX: Final = 32
"""The same as `training.architectures.DIVISOR`, which cannot be imported without Keras."""

TILE_PX: Final = 512
HALO_PX: Final = 64
"""16 um at 0.25 um/px: two nuclei wide, so that a tile's border never decides on a nucleus."""

_LISTED_GROUPS: Final = 8


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished run of `python -m training fit`.

    Attributes:
        folder: Where it lies.
        config: What was trained.
        config_sha256: SHA-256 of `config.json`, hexadecimal.
        splits: Content of `data.json`: for each data source its digest, and under `train` and
            `validation` the stems of every group.
        earlier: The run whose model this one started from, where there is one.
        teachers: The runs whose models it learnt from beside the annotation.
    """

    folder: Path
    config: TrainingConfig
    config_sha256: str
    splits: dict[str, dict[str, Any]]
    earlier: "TrainedRun | None" = None
    teachers: "tuple[TrainedRun, ...]" = ()

    @property
    def stages(self) -> list["TrainedRun"]:
        """The runs that made the weights, first one first: pretraining, then fine-tuning."""
        return [*(self.earlier.stages if self.earlier else []), self]

    @property
    def model_path(self) -> Path:
        """The best model of the run."""
        return self.folder / "model.keras"

    def trained_stems(self) -> set[str]:
        """Names of all images that the weights have learnt from, be it through a teacher."""
        taught = [teacher for stage in self.stages for teacher in stage.teachers]
        return {stem for teacher in taught for stem in teacher.trained_stems()} | {
            stem
            for stage in self.stages
            for source in stage.config.data
            if source.weight > 0
            for stems in stage.splits.get(source.name, {}).get("train", {}).values()
            for stem in stems
        }


def read_run(folder: Path) -> TrainedRun:
    """Read a run folder's configuration and splits.

    Raises:
        ExportRefusedError: A file is missing or invalid.
    """
    config_path = folder / "config.json"
    try:
        config = load_config(config_path)
        splits = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportRefusedError(f"{folder} is no finished run folder: {error}") from error
    return TrainedRun(
        folder=folder,
        config=config,
        config_sha256=hashlib.sha256(config_path.read_bytes()).hexdigest(),
        splits=splits,
        earlier=read_run(folder / INITIAL_FOLDER) if config.initial_model else None,
        teachers=tuple(
            read_run(folder / teacher_folder(number + 1)) for number in range(len(config.teachers))
        ),
    )


def build_contract(
    run: TrainedRun,
    *,
    name: str,
    version: str,
    description: str | None = None,
    separation: SeparationSpec | None = None,
    metrics: Sequence[MetricsEntry] = (),
    verification: VerificationSpec | None = None,
) -> ModelContract:
    """Describe a run's model.

    Args:
        run: The run.
        name: Name that callers will choose the model by.
        version: Semantic version of the weights.
        description: One or two sentences; made from the configuration by default.
        separation: Calibrated thresholds; before calibration the middle of each range.
        metrics: What was measured.
        verification: The comparison with Keras; before it a placeholder, which never reaches a
            released file because releasing verifies.

    Returns:
        A contract that both the service's reader and the committed JSON Schema accept.

    Raises:
        ExportRefusedError: One of them does not.
    """
    config = run.config
    spacing = f"{config.native_mpp:g} um/px"
    try:
        contract = ModelContract(
            contract_version=1,
            name=name,
            version=version,
            architecture=config.architecture,
            description=description
            or f"Nuclei in H&E-stained histology at {spacing}, {config.architecture}, "
            f"maps: {', '.join(config.channels)}. Research use only.",
            created_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            input=InputSpec(
                name="image",
                dtype="uint8",
                layout="NHWC",
                colour="RGB",
                mpp=config.native_mpp,
                divisor=DIVISOR_PX,
                tile_px=TILE_PX,
                halo_px=HALO_PX,
            ),
            output=OutputSpec(name="maps", dtype="uint8", channels=config.channels),
            separation=separation
            or SeparationSpec(probability_threshold=0.5, seed_threshold=0.5, min_area_um2=5.0),
            training=TrainingSpec(
                data=_data_sources(run),
                config_sha256=run.config_sha256,
                source_revision=source_revision(),
                encoder_weights=encoder_origin(run.stages[0].config.encoder_weights),
            ),
            metrics=tuple(metrics),
            verification=verification
            or VerificationSpec(max_difference=0, tiles=1, against="not yet verified"),
        )
    except ValidationError as error:
        raise ExportRefusedError(f"the contract cannot be filled in: {error}") from error
    check_contract(contract.to_metadata())
    return contract


def check_contract(metadata: Mapping[str, str]) -> ModelContract:
    """Read metadata as the service will, and as a reader in another language would.

    Raises:
        ModelContractError: The service's reader refuses it.
        ExportRefusedError: The committed JSON Schema refuses it.
    """
    contract = parse_contract(metadata)
    schema_file = resources.files("service.inference") / "contract_v1.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema_file.read_text("utf-8")))
    for text in metadata.values():
        problem = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(text)))
        if problem is not None:
            raise ExportRefusedError(
                f"the contract breaks contract_v1.schema.json at {problem.json_path}: "
                f"{problem.message}"
            )
    return contract


def _data_sources(run: TrainedRun) -> tuple[DataSource, ...]:
    """Every data set that the weights have seen, in this run or in one that it started from."""
    uses: dict[str, list[str]] = {}
    # What a later stage says of a data set's licence overrules an earlier one.
    latest = {source.name: source for stage in run.stages for source in stage.config.data}
    for stage in run.stages:
        for source in stage.config.data:
            record = stage.splits.get(source.name, {})
            roles = [("validation and calibration", "validation")]
            if source.weight > 0:
                roles.insert(0, ("training", "train"))
            uses.setdefault(source.name, []).extend(
                f"{role}: {_describe_groups(record[key])}" for role, key in roles if record.get(key)
            )
    return tuple(
        DataSource(
            name=name,
            licence=source.licence or "unknown",
            attribution=source.attribution or "not stated",
            source=source.source or "not stated",
            # Stages that use the same images say it once.
            use="; ".join(dict.fromkeys(uses[name])) or "none",
        )
        for name, source in latest.items()
    )


def _describe_groups(groups: Mapping[str, Sequence[str]]) -> str:
    images = sum(len(stems) for stems in groups.values())
    listed = f" ({', '.join(sorted(groups))})" if len(groups) <= _LISTED_GROUPS else ""
    patients = "1 patient or slide" if len(groups) == 1 else f"{len(groups)} patients or slides"
    return f"{images} image{'s' * (images != 1)} of {patients}{listed}"


def encoder_origin(encoder_weights: str | None) -> str:
    """Where the encoder's first weights come from: a file's name without its folder, or `none`."""
    if encoder_weights is None:
        return "none"
    return encoder_weights if encoder_weights == "imagenet" else Path(encoder_weights).name
