"""The query parameters of `POST /segment`: parsed, bounded, closed."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from fastapi import Depends, Header, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from service.api.identity import Identifier, ResultIdentity, refuse_patients
from service.api.negotiation import Format
from service.api.shape_messages import shape_message
from service.api.upload import InvalidFormFieldError
from service.errors import InvalidParameterError
from service.inference.ticket import Priority, Ticket
from service.segmentation_result import SegmentOptions

MaskKind = Literal["binary", "labels", "overlay", "probability", "distance"]
MaskEncoding = Literal["png", "rle"]
Part = Literal["nuclei", "mask"]


def _split_commas(value: object) -> object:
    """Turn `?include=nuclei,mask` and `?include=nuclei&include=mask` into the same list."""
    values: list[object] = value if isinstance(value, list) else [value]
    texts = [item for item in values if isinstance(item, str)]
    if len(texts) < len(values):
        return value
    return [piece.strip() for text in texts for piece in text.split(",") if piece.strip()]


class SegmentParameters(BaseModel):
    """What a caller may ask for; an unknown parameter is refused by name."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    model: Annotated[str | None, Field(max_length=200, examples=["efficientnetv2b0_unet"])] = None
    """Model as `name` or `name:version`; default: the service's default model."""
    mask: MaskKind = "binary"
    """Kind of mask in a PNG answer or with `include=mask`. `binary`: 8 bit, 0 and 255. `labels`:
    16 bit, 0 background, 1..n the nuclei. `overlay`: the image with outlines. `probability`: 8 bit,
    0..255 for 0..1. `distance`: likewise, the distance to the nucleus's own edge, for models that
    have the channel."""
    threshold: Annotated[float | None, Field(gt=0.0, lt=1.0, examples=[0.5])] = None
    """Probability from which a pixel counts as nucleus; default: the model's calibrated value."""
    min_area_um2: Annotated[float | None, Field(ge=0.0, le=1e6, examples=[5.0])] = None
    """Least area of a nucleus in square micrometres; excludes `min_area_px`."""
    min_area_px: Annotated[float | None, Field(ge=0.0, le=1e9)] = None
    """Least area of a nucleus in pixels of the image sent; excludes `min_area_um2`."""
    mpp: Annotated[float | None, Field(ge=0.05, le=5.0, examples=[0.25])] = None
    """Micrometres a pixel of the image sent; default: the file's tags, else the model's own."""
    include: Annotated[list[Part], BeforeValidator(_split_commas)] = Field(
        default_factory=list, max_length=8, examples=[["nuclei", "mask"]]
    )
    """Optional parts of a JSON answer, repeated or separated by commas. `nuclei`: centroid,
    bounding box, area, contour and mean probability of each. `mask`: the mask itself."""
    mask_encoding: MaskEncoding = "png"
    """Encoding of the mask within JSON: `png` in base64, or `rle` (COCO run lengths) for `binary`
    and `labels`."""
    format: Format | None = None
    """Representation of the answer; wins over Accept. `geojson` is for QuPath, `csv` a table of
    the nuclei, `fhir` an R4 Bundle, `hl7` a version 2.5.1 ORU^R01 message, `coco` a data set."""
    accession: Annotated[Identifier | None, Field(examples=["S26-1234"])] = None
    """Accession number, echoed in every representation; at most 64 letters, digits and `._:/-`,
    one digit at least. Also a form field."""
    specimen_id: Annotated[Identifier | None, Field(examples=["S26-1234-A1"])] = None
    """Identifier of the specimen or slide, likewise."""
    order_id: Annotated[Identifier | None, Field(examples=["ORD-778812"])] = None
    """Placer order number that the result answers, likewise."""

    priority: Priority = "routine"
    """Class in which the request waits. `stat`: somebody waits for it. `routine`: the day's cases.
    `batch`: whenever there is time. Urgent classes go first and no class starves."""

    def check(self) -> None:
        """Refuse parameters that contradict each other.

        Raises:
            InvalidParameterError: Two of them do.
        """
        if self.min_area_px is not None and self.min_area_um2 is not None:
            raise InvalidParameterError(
                "min_area_px and min_area_um2 exclude each other; give one.",
                parameter="min_area_px",
            )
        if self.mask_encoding == "rle" and self.mask not in ("binary", "labels"):
            raise InvalidParameterError(
                f"mask={self.mask} has no run lengths; use mask_encoding=png.",
                parameter="mask_encoding",
            )

    @property
    def identity(self) -> ResultIdentity:
        """The laboratory's identifiers."""
        return ResultIdentity(self.accession, self.specimen_id, self.order_id)

    def with_form_fields(self, fields: Mapping[str, str]) -> Self:
        """Return the parameters with the identifiers of a form.

        Raises:
            InvalidFormFieldError: One is malformed, or stands in the query too.
        """
        if not fields:
            return self
        for name in fields:
            if getattr(self, name) is not None:
                raise InvalidFormFieldError(
                    f"{name} is given in the query and in the form; give it once.", parameter=name
                )
        given = {name: getattr(self, name) for name in self.model_fields_set}
        try:
            return type(self).model_validate({**given, **fields})
        except ValidationError as error:
            detail = error.errors()[0]
            name = str(detail["loc"][0])
            raise InvalidFormFieldError(
                f"{name}: {shape_message(detail)}", parameter=name
            ) from None

    def segment_options(self) -> SegmentOptions:
        """Return the part of the parameters that the segmenter takes."""
        return SegmentOptions(
            probability_threshold=self.threshold,
            min_area_px=self.min_area_px,
            min_area_um2=self.min_area_um2,
            mpp=self.mpp,
            keep_distance=self.mask == "distance",
        )


async def refuse_patient_parameters(request: Request) -> None:
    """Refuse patient data in the query before anything else is said about it.

    Raises:
        PatientDataError: A parameter would identify a patient.
    """
    refuse_patients(request.query_params)


async def get_segment_parameters(
    request: Request,
    parameters: Annotated[SegmentParameters, Query()],
    _: Annotated[None, Depends(refuse_patient_parameters)],
) -> SegmentParameters:
    """Check what one parameter alone does not show, before the body is read.

    Raises:
        InvalidParameterError: A parameter is given twice, or two contradict each other.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if count > 1 and name != "include":
            raise InvalidParameterError(f"{name} is given {count} times.", parameter=name)
    parameters.check()
    return parameters


RequestTimeout = Annotated[
    int | None,
    Header(
        alias="X-Request-Timeout-Ms",
        ge=1,
        le=3_600_000,
        description=(
            "Milliseconds from the arrival of the request after which nobody wants the answer;"
            " it is then 504, and work that has not begun never does."
        ),
        examples=[10_000],
    ),
]


def make_ticket(parameters: SegmentParameters, timeout_ms: int | None) -> Ticket:
    """Return the request's class and deadline; its clock starts here, before the body is read."""
    timeout_s = None if timeout_ms is None else timeout_ms / 1000.0
    return Ticket(parameters.priority, timeout_s)
