"""The model contract, version 1: what a model file says of itself.

A Karyon model is one ONNX file. Its graph takes pixels as decoded (`image`, uint8, `(N, H, W, 3)`,
RGB) and gives maps (`maps`, uint8, `(N, H, W, C)`, 0..255 for 0..1). Everything else that the
service must know stands as JSON in the file's metadata, under the key `karyon.contract`. These
classes read and write that JSON; `contract_v1.schema.json` beside this module is the same as a JSON
Schema, for writers in other languages.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from service.errors import ModelContractError

CONTRACT_KEY: Final = "karyon.contract"
CONTRACT_VERSION: Final = 1

INPUT_NAME: Final = "image"
OUTPUT_NAME: Final = "maps"

_JSON_SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Channel = Literal["nucleus", "distance"]
Text = Annotated[str, StringConstraints(min_length=1)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
# Semantic versioning 2.0.0 without build metadata, which has no order.
ModelVersion = Annotated[
    str,
    StringConstraints(
        pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$",
        max_length=64,
    ),
]


class _Spec(BaseModel):
    """What all parts of the contract share: frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class InputSpec(_Spec):
    """The pixels that the graph takes, and how a large image is cut for it."""

    name: Literal["image"]
    """Name of the graph's only input."""
    dtype: Literal["uint8"]
    """Element type: pixels as decoded, 0..255."""
    layout: Literal["NHWC"]
    """Order of the dimensions."""
    colour: Literal["RGB"]
    """Order of the three channels."""
    mpp: float = Field(ge=0.05, le=5.0)
    """Native resolution in micrometres per pixel: what the model was trained at."""
    divisor: int = Field(ge=1, le=1024)
    """Height and width must be multiples of this many pixels."""
    tile_px: int = Field(ge=16, le=8192)
    """Side of the square tiles that larger images are cut into, in pixels."""
    halo_px: int = Field(ge=0)
    """Rim of a tile, in pixels, whose output is discarded in favour of the neighbour's."""

    @model_validator(mode="after")
    def _tile_fits(self) -> Self:
        if self.tile_px % self.divisor:
            raise ValueError(f"divisor {self.divisor} does not divide tile_px {self.tile_px}")
        if self.tile_px - 2 * self.halo_px < self.divisor:
            raise ValueError(f"halo_px {self.halo_px} leaves nothing of tile_px {self.tile_px}")
        return self


class OutputSpec(_Spec):
    """The maps that the graph gives."""

    name: Literal["maps"]
    """Name of the graph's only output."""
    dtype: Literal["uint8"]
    """Element type: 0..255 stands for 0..1."""
    channels: tuple[Channel, ...] = Field(
        json_schema_extra={"enum": [["nucleus"], ["nucleus", "distance"]]}
    )
    """`nucleus`: probability. `distance`: Euclidean distance to the nucleus's own edge, divided
    by its maximum within the nucleus, so that each nucleus peaks at 1."""

    @field_validator("channels")
    @classmethod
    def _known_order(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if channels not in (("nucleus",), ("nucleus", "distance")):
            raise ValueError("must be ['nucleus'] or ['nucleus', 'distance']")
        return channels


class SeparationSpec(_Spec):
    """How maps become nuclei; calibrated on validation patients."""

    probability_threshold: float = Field(gt=0.0, lt=1.0)
    """Least nucleus probability of a foreground pixel."""
    seed_threshold: float = Field(gt=0.0, lt=1.0)
    """Least value of the distance map inside a seed; unused by one-channel models."""
    min_area_um2: float = Field(ge=0.0, le=10_000.0)
    """Least area of a nucleus in square micrometres."""
    min_mean_probability: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Least mean probability of a nucleus: a low threshold outlines nuclei well and finds false
    ones too, and these are faint throughout."""


class CountIntervalSpec(_Spec):
    """Prediction interval of the annotated count, from the predicted one.

    It reaches from `lower_ratio * count - allowance` to `upper_ratio * count + allowance`.
    """

    level: float = Field(gt=0.0, lt=1.0)
    """Nominal coverage, for example 0.9."""
    lower_ratio: float = Field(ge=0.0)
    """Lower end divided by the predicted count, before the allowance."""
    upper_ratio: float = Field(ge=0.0)
    """Upper end divided by the predicted count, before the allowance."""
    allowance: float = Field(default=0.0, ge=0.0)
    """Nuclei by which both ends move outward besides: ratios alone give an image in which nothing
    is found no interval at all."""
    method: Text
    """How these numbers were found."""
    images: int = Field(ge=1)
    """Images calibrated on."""
    patients: int = Field(ge=1)
    """Patients those images come from."""
    test_time_augmentation: Literal["none", "flips4", "dihedral8"] = "none"
    """The copies that were averaged when it was calibrated; it holds for no others."""
    coverage: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of images covered when each patient in turn was left out of the calibration."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower_ratio > self.upper_ratio:
            raise ValueError("lower_ratio is above upper_ratio")
        return self


class DataSource(_Spec):
    """One data set that the weights have seen, and on what terms."""

    name: Text
    """Short name."""
    licence: Text
    """Licence, as an SPDX identifier where there is one."""
    attribution: Text
    """The citation that the licence asks for."""
    source: Text
    """Where it was published."""
    use: Text
    """What it served for, and which part: for example `training: patients 01-06`."""


class TrainingSpec(_Spec):
    """Where the weights come from."""

    data: tuple[DataSource, ...] = Field(min_length=1)
    """Every data set used to train, to select or to calibrate."""
    config_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the run's configuration file, hexadecimal."""
    source_revision: Text
    """Git commit of the training code, or `unknown`."""
    encoder_weights: Text
    """Origin of the encoder's first weights, or `none`."""


class MetricsEntry(_Spec):
    """Figures measured on one split of one data set."""

    dataset: Text
    """Name of the data set."""
    split: Text
    """Which part of it, and what role that part had."""
    images: int = Field(ge=1)
    """Images measured on."""
    values: dict[str, float]
    """Metric name to value; ratios are 0..1."""


class VerificationSpec(_Spec):
    """The comparison with Keras without which no file is written."""

    max_difference: int = Field(ge=0, le=1)
    """Largest difference of any output pixel, in steps of 1/255."""
    tiles: int = Field(ge=1)
    """Real tiles compared."""
    against: Text
    """What it was compared with, with its version."""


class VariantAccuracy(_Spec):
    """What a reduced precision costs, against the same file in float32.

    Both were run through the service's own segmentation on the same images.
    """

    dataset: Text
    """Name of the data set."""
    split: Text
    """Which part of it, and what role that part had."""
    images: int = Field(ge=1)
    """Images measured on."""
    dice_change: float
    """Pooled Dice less that of float32, -1..1; negative is worse."""
    count_bias_change_points: float
    """Count bias less that of float32, in percentage points."""


class VariantSpec(_Spec):
    """Says that a file is a smaller, faster form of another one."""

    precision: Literal["int8", "fp16"]
    """`int8`: quantised to 8 bits where that kept the accuracy. `fp16`: computes in float16."""
    reference_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the `model.onnx` beside it, hexadecimal."""
    accuracy: VariantAccuracy
    """What it costs."""


class ReducedPrecisionSpec(_Spec):
    """A precision that a provider may run this very file in, found accurate enough."""

    precision: Literal["bf16"]
    """`bf16`: convolutions in bfloat16."""
    provider: Literal["openvino"]
    """What ran it."""
    accuracy: VariantAccuracy
    """What it costs."""


class ModelContract(_Spec):
    """The whole metadata of one model file, contract version 1."""

    contract_version: Literal[1]
    """Version of this contract."""
    name: ModelName
    """Name that callers choose the model by."""
    version: ModelVersion
    """Semantic version of the weights."""
    architecture: Text
    """Key of the architecture in `training.architectures`."""
    description: Text
    """One or two sentences for people."""
    created_utc: str = Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$"
    )
    """When the file was written, ISO 8601 in UTC."""
    input: InputSpec
    """The pixels that the graph takes."""
    output: OutputSpec
    """The maps that the graph gives."""
    separation: SeparationSpec
    """Calibrated thresholds."""
    count_interval: CountIntervalSpec | None = None
    """Interval of the count, where it was calibrated."""
    quality_reference: dict[str, float] | None = None
    """Statistics of the training images that quality flags compare with."""
    training: TrainingSpec
    """Data, licences and configuration of the run."""
    metrics: tuple[MetricsEntry, ...] = ()
    """What was measured, and on which split."""
    verification: VerificationSpec
    """Parity with the trained model."""
    weight_storage: Literal["float32", "float16"] = "float32"
    """How the file stores its large weights. The graph computes in float32 either way: those stored
    in float16 were rounded in the trained model, before the comparison with Keras."""
    variant: VariantSpec | None = None
    """What the file is a variant of; null in the reference file, `model.onnx`."""
    reduced_precisions: tuple[ReducedPrecisionSpec, ...] = ()
    """Precisions without a file of their own that this file was measured in and accepted."""

    def to_metadata(self) -> dict[str, str]:
        """Return the entry that the exporter writes into the file's metadata."""
        return {CONTRACT_KEY: self.model_dump_json()}


def parse_contract(metadata: Mapping[str, str]) -> ModelContract:
    """Read the contract from the metadata of an ONNX file.

    Args:
        metadata: The file's `metadata_props` as a mapping.

    Returns:
        The validated contract.

    Raises:
        ModelContractError: The entry is missing, is no JSON object, names a contract version that
            this build does not read, or has missing, unknown or invalid fields (each is named).
    """
    text = metadata.get(CONTRACT_KEY)
    if text is None:
        raise ModelContractError(
            f"the file has no {CONTRACT_KEY!r} metadata; write models with `python -m export`"
        )
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelContractError(f"the {CONTRACT_KEY!r} metadata is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelContractError(f"the {CONTRACT_KEY!r} metadata is not a JSON object")
    # The version comes first: the fields of another version would only give misleading complaints.
    version = document.get("contract_version")
    if version is None:
        raise ModelContractError("the contract has no contract_version")
    if isinstance(version, bool) or version != CONTRACT_VERSION:
        raise ModelContractError(
            f"contract version {version!r} is unknown; this build reads version {CONTRACT_VERSION}"
        )
    try:
        # Strict: a number written as text is a broken writer, not something to guess around.
        return ModelContract.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise ModelContractError(f"the contract is invalid: {problems}") from error


def contract_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that `contract_v1.schema.json` holds."""
    return {"$schema": _JSON_SCHEMA_DIALECT, **ModelContract.model_json_schema()}
