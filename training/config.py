"""The configuration of a training run: validated, frozen, saved beside the weights."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.datasets import DEFAULT_GROUP_PATTERN

Channel = Literal["nucleus", "distance"]
Architecture = Literal[
    "unet",
    "vgg16_unet",
    "resnet50_unet",
    "efficientnetb0_unet",
    "efficientnetv2b0_unet",
    "mobilenetv2_unet",
    "transunet",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Frozen):
    """One folder of annotated images, and what the model's card must say of it."""

    name: str = Field(description="Short name, as it appears in the card.")
    path: Path = Field(
        description="Folder in a layout that training.datasets reads; relative "
        "paths start at --data-root."
    )
    weight: float = Field(1.0, ge=0, description="Share of the crops, relative to other sources.")
    validation_groups: tuple[str, ...] = Field(
        (), description="Shell patterns of the patients or organs to hold out."
    )
    group_pattern: str = Field(
        DEFAULT_GROUP_PATTERN, description="Regular expression from stem to patient."
    )
    licence: str = Field("unknown", description="SPDX name or the words of the licence.")
    attribution: str = Field("", description="Who made it, as the licence asks.")
    source: str = Field("", description="DOI or record where it can be had.")


class AugmentationConfig(_Frozen):
    """Strengths of the augmentation, see training.augmentation.Augmentation; 0 turns a part off."""

    scale: float = Field(0.25, ge=0, le=2)
    rotation: bool = True
    elastic_px: float = Field(2.0, ge=0)
    stain: float = Field(0.25, ge=0, lt=1)
    brightness: float = Field(0.2, ge=0, lt=1)
    blur_px: float = Field(1.2, ge=0)
    stain_normalisation: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="Give crops the stain of another training image, by this method."
    )
    stain_normalisation_share: float = Field(
        0.5, ge=0, le=1, description="Share of the crops that are given one."
    )


class TrainingConfig(_Frozen):
    """Everything that decides the outcome of a run, but the data's content."""

    architecture: Architecture = "mobilenetv2_unet"
    channels: tuple[Channel, ...] = Field(
        ("nucleus", "distance"), description="Maps to learn; distance separates touching nuclei."
    )
    encoder_weights: str | None = Field(
        None,
        description="'imagenet', a weights file (relative paths start at --data-root), or nothing "
        "for random weights.",
    )
    initial_model: str | None = Field(
        None,
        description="A model.keras of the same architecture to start from (pretraining, then "
        "fine-tuning); relative paths start at the working directory.",
    )
    teachers: tuple[str, ...] = Field(
        (),
        description="Finished runs' model.keras, of any architecture, whose average view of the "
        "training images is learnt beside the annotation; relative to the working directory.",
    )
    teacher_share: float = Field(
        0.5, gt=0, le=1, description="Weight of the teachers; the annotation has the rest."
    )
    teacher_views: int = Field(2, ge=1, le=4, description="Mirrored views that are averaged.")
    encoder_batchnorm: Literal["auto", "inference", "training"] = Field(
        "auto",
        description="Whether the encoder's batch normalisation keeps its statistics: "
        "auto keeps them when the weights are pretrained.",
    )
    data: tuple[DataSource, ...] = Field(min_length=1)
    native_mpp: float = Field(0.25, gt=0, description="Resolution of the images, um/px.")

    crop_px: int = Field(256, ge=32, multiple_of=32)
    batch_size: int = Field(8, ge=1)
    steps_per_epoch: int = Field(100, ge=1)
    epochs: int = Field(30, ge=1)
    frozen_epochs: int = Field(
        2, ge=0, description="First epochs in which a pretrained encoder does not learn."
    )
    nucleus_share: float = Field(
        0.7, ge=0, le=1, description="Share of crops centred on a nucleus (class balance)."
    )
    augmentation: AugmentationConfig = AugmentationConfig()

    loss: Literal["bce_dice", "focal_tversky"] = "bce_dice"
    distance_weight: float = Field(1.0, ge=0)
    boundary_weight: float = Field(
        0.0,
        ge=0,
        description="Extra weight in the cross-entropy of pixels at a nucleus's edge and where "
        "nuclei meet; 0 weighs all pixels alike.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = 1e-3
    final_learning_rate_share: float = Field(
        0.01, ge=0, le=1, description="Where the cosine ends, as a share of learning_rate."
    )
    warmup_steps: int = Field(100, ge=0)
    gradient_clip_norm: float = Field(1.0, gt=0)
    ema_momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Momentum of the exponential moving average of the weights, which is what is "
        "validated and saved; 0 saves the weights of the step itself.",
    )
    early_stopping_epochs: int = Field(
        10, ge=1, description="Epochs without a better monitored value before the run ends."
    )
    monitor: Literal["val_dice", "val_loss", "val_iou", "val_average_precision"] = "val_dice"
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.channels not in {("nucleus",), ("nucleus", "distance")}:
            raise ValueError('channels must be ["nucleus"] or ["nucleus", "distance"]')
        if len({source.name for source in self.data}) != len(self.data):
            raise ValueError("two data sources have one name")
        if not any(source.validation_groups for source in self.data):
            raise ValueError(
                "no data source names validation_groups: hold out at least one patient, "
                "or the run's figures mean nothing"
            )
        if self.initial_model and self.encoder_weights:
            raise ValueError("initial_model brings its encoder along: leave encoder_weights out")
        if not any(source.weight > 0 for source in self.data):
            raise ValueError("every data source has weight 0")
        return self

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def encoder_keeps_statistics(self) -> bool:
        """Whether the encoder's BatchNorm runs in inference mode while training."""
        if self.encoder_batchnorm == "auto":
            return bool(self.encoder_weights or self.initial_model)
        return self.encoder_batchnorm == "inference"

    def to_json(self) -> str:
        """The configuration as indented JSON, stable between runs."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    def sha256(self) -> str:
        """Digest of `to_json`, which the exported model carries."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> TrainingConfig:
    """Read a configuration from TOML or JSON.

    Args:
        path: the file.
        overrides: values that take the place of the file's, by field name.

    Raises:
        ValueError: no such file, unknown suffix, syntax, unknown field or value out of range.
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"{path}: a configuration is a .toml or a .json file")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; training/recipes has recipes to start from")
    text = path.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; texts stand in quotes, lists in square brackets"
        ) from error
    return TrainingConfig.model_validate({**values, **(overrides or {})})


def with_hold_out(config: TrainingConfig, groups: Sequence[str]) -> TrainingConfig:
    """Hold out other patients: one fold of a leave-patients-out cross-validation.

    Args:
        config: a configuration of which one source holds patients out.
        groups: shell patterns of the patients to hold out in their place.

    Raises:
        ValueError: several sources hold patients out; which one is meant cannot be told.
    """
    holding = [source.name for source in config.data if source.validation_groups]
    if len(holding) != 1:
        raise ValueError(f"{' and '.join(holding)} hold patients out: write a recipe for this fold")
    values = config.model_dump()
    for source in values["data"]:
        if source["name"] == holding[0]:
            source["validation_groups"] = tuple(groups)
    return TrainingConfig.model_validate(values)
