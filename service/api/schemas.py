"""The shapes of the JSON answers, for the OpenAPI document and for the tests that hold us to it.

Answers to `POST /segment` are not built from these classes: thousands of nuclei as pydantic objects
would cost more than the segmentation. `service.api.answer` builds plain dicts, and tests validate
them against these classes.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.provenance_schemas import (
    IdentityAnswer,
    OrderReferenceAnswer,
    SignedStatement,
    SoftwareReference,
)
from service.api.quality_schemas import QualityAnswer
from service.inference.contract import ModelContract

RESEARCH_USE_ONLY = (
    "For research use only. Not for use in diagnostic procedures. Preliminary until reviewed by a"
    " qualified person."
)

SHA256 = Field(pattern=r"^[0-9a-f]{64}$", examples=["9f86d081884c7d65" * 4])
Fraction = Field(ge=0.0, le=1.0)


class _Answer(BaseModel):
    """Base: closed (no other members) and documented by the strings under the fields."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class ModelReference(_Answer):
    """Which model made the result."""

    name: str = Field(examples=["efficientnetv2b0_unet"])
    """Name in the repository."""
    version: str = Field(examples=["1.0.0"])
    """Version of the file."""
    digest: str = SHA256
    """SHA-256 of the model file."""


class ImageDescription(_Answer):
    """The image as it was read."""

    width: int = Field(ge=1, examples=[512])
    """Pixels across, EXIF orientation applied; all coordinates are in these pixels."""
    height: int = Field(ge=1, examples=[512])
    """Pixels down."""
    format: Literal["png", "jpeg", "tiff", "webp", "bmp"]
    """What the content is, whatever its name or Content-Type said."""
    sha256: str = SHA256
    """SHA-256 of the bytes of the image file as sent."""
    pixel_sha256: str = SHA256
    """SHA-256 of the decoded pixels: of `RGB8 <height> <width>`, a line feed, and the pixels."""
    mpp: float = Field(gt=0.0, examples=[0.25])
    """Micrometres a pixel that the segmentation worked with."""
    mpp_source: Literal["parameter", "image", "assumed_native"]
    """Who said so: the caller, the file's tags, or nobody (the model's own is assumed)."""
    mpp_tag: str | None = Field(examples=["tiff_resolution"])
    """The file's tag that mpp came from; null unless `mpp_source` is `image`."""
    notes: list[str] = Field(examples=[["alpha composited on white"]])
    """Decisions taken while reading the file."""


class UsedParameters(_Answer):
    """The parameters in force, defaults resolved."""

    threshold: float = Fraction
    """Probability from which a pixel counts as nucleus."""
    seed_threshold: float = Fraction
    """Height of a nucleus's seed in the distance map."""
    min_area_px: float = Field(ge=0.0, examples=[80.0])
    """Least area of a nucleus, in the image's pixels."""
    min_mean_probability: float = Fraction
    """Least mean probability of a nucleus; fainter ones are dropped. The model's own."""
    test_time_augmentation: Literal["none", "flips4", "dihedral8"]
    """Turned and mirrored copies whose maps were averaged; a setting of the service."""
    mask: Literal["binary", "labels", "overlay", "probability", "distance"]
    """Kind of mask."""
    mask_encoding: Literal["png", "rle"]
    """Encoding of a mask within JSON."""
    include: list[Literal["nuclei", "mask"]]
    """Optional parts of the answer."""


class NucleusAnswer(_Answer):
    """One nucleus, in pixels of the caller's image; origin top-left, x to the right, y down."""

    id: int = Field(ge=1)
    """Number of the nucleus, the value of its pixels in the labels mask."""
    centroid_px: tuple[float, float] = Field(examples=[(101.4, 77.9)])
    """Centre of mass (x, y)."""
    bounding_box_px: tuple[int, int, int, int] = Field(examples=[(92, 70, 19, 17)])
    """Left, top, width, height."""
    area_px: int = Field(ge=1)
    """Area in pixels."""
    area_um2: float | None = Field(examples=[15.6])
    """Area in square micrometres; null where mpp is assumed."""
    contour_px: list[tuple[int, int]] = Field(examples=[[(92, 75), (95, 84), (107, 80), (101, 70)]])
    """Outline through the border pixels (x, y), not closed."""
    mean_probability: float = Fraction
    """Mean nucleus probability over its pixels."""


class RunLengths(_Answer):
    """COCO's uncompressed run-length encoding: column-major, the first run is background."""

    size: tuple[int, int] = Field(examples=[(512, 512)])
    """Height, width."""
    counts: list[int]
    """Lengths of the alternating runs of background and foreground."""


class NucleusRunLengths(RunLengths):
    """Run lengths of one nucleus."""

    id: int = Field(ge=1)
    """Number of the nucleus."""


class PngMask(_Answer):
    """A mask as a PNG file within JSON."""

    kind: Literal["binary", "labels", "overlay", "probability", "distance"]
    """Kind of mask."""
    encoding: Literal["png"]
    """Always `png`."""
    data: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """The PNG file in base64."""


class BinaryRunLengthMask(_Answer):
    """The binary mask as run lengths."""

    kind: Literal["binary"]
    """Always `binary`."""
    encoding: Literal["rle"]
    """Always `rle`."""
    run_lengths: RunLengths
    """All nuclei together."""


class LabelsRunLengthMask(_Answer):
    """The labels as run lengths, one entry a nucleus."""

    kind: Literal["labels"]
    """Always `labels`."""
    encoding: Literal["rle"]
    """Always `rle`."""
    nuclei: list[NucleusRunLengths]
    """One entry a nucleus, in the order of their numbers."""


class CountIntervalAnswer(_Answer):
    """Where the count of a careful annotator is expected (docs/what-the-numbers-mean.md)."""

    lower: int = Field(ge=0, examples=[110])
    """Least nuclei."""
    upper: int = Field(ge=0, examples=[146])
    """Most nuclei."""
    level: float = Field(gt=0.0, lt=1.0, examples=[0.9])
    """Share of images, like those calibrated on, whose annotated count lies within."""
    method: str = Field(examples=["split conformal by patient, 37 images of 8 patients"])
    """How it was found."""


class SegmentationAnswer(_Answer):
    """The result of `POST /segment`."""

    id: str = Field(examples=["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"])
    """Identifier of this answer, new for each request."""
    status: Literal["preliminary"]
    """A result stays preliminary until a person has reviewed it."""
    research_use_only: str = Field(examples=[RESEARCH_USE_ONLY])
    """What the result may be used for."""
    created_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """When the answer was made."""
    """When the result was made."""
    identity: IdentityAnswer
    """The laboratory's identifiers; those of its order where the caller gave none."""
    order: OrderReferenceAnswer | None = None
    """The order that it answers; present where `accession` found one."""
    count: int = Field(ge=0, examples=[123])
    """Number of nuclei."""
    # The default is for the OpenAPI document alone, from which FastAPI drops every null.
    count_interval: CountIntervalAnswer | None = None
    """Interval of the count; null where the model states none, or where the caller changed a
    threshold, the image was resampled or the service averages other copies than the model was
    calibrated with: what it was measured under is then not in force."""
    density_per_mm2: float | None = Field(examples=[7507.3])
    """Nuclei a square millimetre of image; null where mpp is assumed."""
    foreground_fraction: float = Fraction
    """Share of the pixels that belong to nuclei."""
    mean_area_px: float | None = Field(examples=[312.5])
    """Mean area of the nuclei in pixels; null where there are none."""
    median_area_px: float | None = Field(examples=[298.0])
    """Median area in pixels."""
    mean_area_um2: float | None = Field(examples=[19.5])
    """Mean area in square micrometres; null where mpp is assumed."""
    median_area_um2: float | None = Field(examples=[18.6])
    """Median area in square micrometres."""
    model: ModelReference
    """The model that made it."""
    provider: str = Field(examples=["CPUExecutionProvider"])
    """The onnxruntime execution provider that really ran."""
    precision: Literal["fp32", "bf16", "int8", "fp16"]
    """What the model computed in."""
    cached: bool = Field(examples=[False])
    """Whether the segmentation was computed for an earlier request of the same file, model and
    parameters. `id` and `created_utc` are this answer's own."""
    software: SoftwareReference
    """The service that made it."""
    image: ImageDescription
    """The image as it was read."""
    parameters: UsedParameters
    """The parameters in force."""
    quality: QualityAnswer
    """Checks of the image, and whether a person should look at it before the count is used."""
    timings_ms: dict[str, float] = Field(
        examples=[{"queue": 0.1, "decoding": 5.7, "inference": 146.0, "total": 160.2}]
    )
    """Milliseconds of each stage, and in all."""
    provenance: SignedStatement | None = None
    """The signed statement about this document; in every answer of the service."""
    nuclei: list[NucleusAnswer] | None = None
    """Each nucleus; present with `include=nuclei`."""
    mask: PngMask | BinaryRunLengthMask | LabelsRunLengthMask | None = None
    """The mask; present with `include=mask`."""


class ModelSummary(ModelReference):
    """A loaded model."""

    default: bool
    """Whether requests that name no model get this one."""
    architecture: str = Field(examples=["efficientnetv2b0_unet"])
    """Name of the network."""
    description: str
    """In a sentence."""
    active: bool
    """Whether this version answers to the bare name."""
    provider: str = Field(examples=["CPUExecutionProvider"])
    """The execution provider that really runs it."""
    precision: Literal["fp32", "bf16", "int8", "fp16"]
    """What it computes in."""
    mpp: float = Field(examples=[0.25])
    """Micrometres a pixel that the model wants."""


class ModelList(_Answer):
    """The loaded models."""

    default: str = Field(examples=["efficientnetv2b0_unet"])
    """Name of the default model."""
    models: list[ModelSummary]
    """All that a request can name."""


class ModelDetail(ModelSummary):
    """A loaded model with the whole contract that its file carries."""

    contract: ModelContract
    """Tensors, thresholds, training data and licences, metrics."""


class ActivationAnswer(ModelReference):
    """A version answers to its bare name now."""

    previous: str | None = Field(examples=["1.0.0"])
    """The version that did before; null where there was none."""
    provider: str = Field(examples=["CPUExecutionProvider"])
    """The execution provider that really runs it."""
    precision: Literal["fp32", "bf16", "int8", "fp16"]
    """What it computes in."""
    persisted: bool
    """Whether the next start makes the same choice; false where the models folder is read-only."""


class Liveness(_Answer):
    """The process runs its event loop."""

    status: Literal["live"]
    """Always `live`."""


class StartUp(_Answer):
    """Start-up is over."""

    status: Literal["started"]
    """Always `started`."""


class CanaryAnswer(_Answer):
    """The segmentation that start-up made with a model."""

    model: str = Field(examples=["efficientnetv2b0_unet:1.1.0"])
    """Name and version."""
    provider: str = Field(examples=["CPUExecutionProvider"])
    """The execution provider that really ran."""
    precision: Literal["fp32", "bf16", "int8", "fp16"]
    """What it computed in."""
    duration_ms: float = Field(ge=0.0)
    """Milliseconds of the warm run."""


class Readiness(_Answer):
    """The service takes work."""

    status: Literal["ready"]
    """Always `ready`."""
    canaries: list[CanaryAnswer]
    """One for each loaded model."""


class ParameterError(_Answer):
    """One wrong parameter."""

    location: list[str] = Field(examples=[["query", "threshold"]])
    """Where: `query` or `body`, then the name."""
    message: str = Field(examples=["Input should be less than 1"])
    """What it may be."""


class Problem(_Answer):
    """RFC 9457 problem details."""

    type: str = Field(examples=["/problems/invalid-parameter"])
    """Relative URI of the problem type; GET it for an explanation."""
    title: str = Field(examples=["A parameter is invalid"])
    """The same for every occurrence."""
    status: int = Field(ge=400, le=599, examples=[422])
    """The HTTP status."""
    detail: str = Field(examples=["threshold: Input should be less than 1"])
    """This occurrence."""
    instance: str = Field(examples=["6f1c0a2f4e5d4b3a9c8d7e6f5a4b3c2d"])
    """The request id, as in `X-Request-ID` and in the log."""
    remedy: str = Field(examples=["`errors` names each parameter and what it may be."])
    """What to do about it; the same for every occurrence."""
    errors: list[ParameterError] | None = None
    """Each wrong parameter, for `invalid-parameter`."""


class ProblemTypeDescription(_Answer):
    """What a problem type means."""

    type: str = Field(examples=["/problems/overloaded"])
    """The type URI."""
    title: str = Field(examples=["The queue is full"])
    """What went wrong."""
    status: int = Field(examples=[503])
    """The HTTP status."""
    remedy: str = Field(examples=["Try again after the seconds in Retry-After."])
    """What to do."""
