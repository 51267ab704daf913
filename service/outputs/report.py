"""One result as laboratory messages report it, taken from the JSON answer and from nowhere else.

What is stored, what is signed and what is delivered are the same document, so a message that is
sent again after a review, or rebuilt years later, says what the stored result says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import orjson

from service.outputs.identity import OrderReference, ResultIdentity

ResultStatus = Literal["preliminary", "final", "corrected", "cancelled"]
"""Where a result stands: made by the model, accepted, edited, or rejected by a person."""


@dataclass(frozen=True, slots=True)
class CountInterval:
    """An interval that is meant to hold the true count.

    Attributes:
        lower: Least count.
        upper: Greatest count.
        level: Nominal coverage, 0 to 1.
        method: How it was made.
    """

    lower: int
    upper: int
    level: float
    method: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The separation parameters in force.

    Attributes:
        probability: Least nucleus probability of a foreground pixel, 0 to 1.
        seed: Least value of the distance map in a seed, 0 to 1.
        min_area_px: Least area of a nucleus in pixels of the image sent.
    """

    probability: float
    seed: float
    min_area_px: float


@dataclass(frozen=True, slots=True)
class ReportedFlag:
    """One quality check.

    Attributes:
        name: For example `blur`.
        fired: Whether a person should look because of it.
        message: What it says, in a sentence.
    """

    name: str
    fired: bool
    message: str


@dataclass(frozen=True, slots=True)
class Review:
    """A person's decision about the result.

    Attributes:
        reviewer: Who decided, as the laboratory knows them.
        reason: Why; free text, None where none was given.
        time_utc: ISO 8601 time in UTC.
    """

    reviewer: str
    reason: str | None
    time_utc: str


@dataclass(frozen=True, slots=True)
class ReportedResult:
    """Everything that a FHIR bundle or an HL7 message says about one image.

    Attributes:
        id: Identifier of the result, a UUID in 32 hexadecimal digits.
        identity: The laboratory's identifiers.
        filler_number: Number that the laboratory system gave the order; None where it gave none.
        created_utc: When the image was segmented, ISO 8601 in UTC.
        status: Where the result stands.
        count: Number of nuclei; the reviewer's where one edited it.
        count_interval: Interval of the count; None where the model has none.
        density_per_mm2: Nuclei a square millimetre; None where mpp is only assumed.
        foreground_fraction: Share of the pixels that belong to nuclei, 0 to 1.
        width_px: Width of the image.
        height_px: Height of the image.
        mpp: Micrometres a pixel that were worked with.
        mpp_source: `parameter`, `image` or `assumed_native`.
        mpp_tag: The file's tag that mpp came from; None without one.
        model_name: Name of the model.
        model_version: Version of the model.
        model_digest: SHA-256 of the model file, hexadecimal.
        software_name: Name of the service.
        software_version: Version of the service.
        thresholds: The separation parameters in force.
        provider: The onnxruntime execution provider that ran.
        precision: Numerical precision that ran; None where not told.
        input_sha256: Of the bytes of the image file.
        pixel_sha256: Of the decoded pixels and their shape.
        flags: Every quality check, fired or not.
        research_use_only: What the result may be used for, in a sentence.
        review: The person's decision; None before one.
        attestation: The signed statement (DSSE envelope) as JSON text; None where not signed.
    """

    id: str
    identity: ResultIdentity
    filler_number: str | None
    created_utc: str
    status: ResultStatus
    count: int
    count_interval: CountInterval | None
    density_per_mm2: float | None
    foreground_fraction: float
    width_px: int
    height_px: int
    mpp: float
    mpp_source: str
    mpp_tag: str | None
    model_name: str
    model_version: str
    model_digest: str
    software_name: str
    software_version: str
    thresholds: Thresholds
    provider: str
    precision: str | None
    input_sha256: str
    pixel_sha256: str
    flags: tuple[ReportedFlag, ...]
    research_use_only: str
    review: Review | None
    attestation: str | None

    @property
    def changed_utc(self) -> str:
        """When the result got its present status, ISO 8601 in UTC."""
        return self.created_utc if self.review is None else self.review.time_utc

    @property
    def comments(self) -> list[str]:
        """What a reader of the figures must know, most important first."""
        comments = [self.research_use_only]
        comments += [f"Review recommended: {flag.message}" for flag in self.flags if flag.fired]
        if self.density_per_mm2 is None:
            comments.append(
                "No density: the image states no resolution, so areas in um2 are not known."
            )
        if self.review is not None:
            decision = f"{self.status.capitalize()} by {self.review.reviewer}"
            reason = "" if self.review.reason is None else f": {self.review.reason}"
            comments.append(decision + reason)
        return comments


def reported_result(document: Mapping[str, Any]) -> ReportedResult:
    """Read a JSON answer, fresh or stored.

    Args:
        document: The answer of `POST /segment` as a mapping; `nuclei` and `mask` are not looked at.
            A review adds `status`, `review` (`reviewer`, `reason`, `time_utc`) and changes figures.

    Returns:
        The same figures, typed.

    Raises:
        ValueError: A member is missing, or the status is none that is known.
    """
    try:
        return _read(document)
    except KeyError as error:
        raise ValueError(f"the result document has no member {error.args[0]!r}") from error


def amended_result(
    result: ReportedResult,
    *,
    status: ResultStatus,
    review: Review,
    count: int | None = None,
    drawn_fraction: float | None = None,
) -> ReportedResult:
    """Return a result as a review left it.

    A count by hand brings its own density, and has no interval: that was the model's. Nuclei drawn
    by hand bring their own share of the image; a count alone says nothing of areas.

    Args:
        result: As the model made it, or as an earlier review left it.
        status: Where it stands now.
        review: The decision.
        count: The reviewer's count; None or the same one keeps the model's.
        drawn_fraction: Share of the pixels that lie in the nuclei as the reviewer drew them, 0 to
            1; None where nobody drew any.
    """
    if drawn_fraction is not None:
        result = replace(result, foreground_fraction=drawn_fraction)
    if count is None or count == result.count:
        return replace(result, status=status, review=review)
    area_mm2 = result.width_px * result.height_px * result.mpp**2 / 1e6
    return replace(
        result,
        status=status,
        review=review,
        count=count,
        count_interval=None,
        density_per_mm2=None if result.density_per_mm2 is None else count / area_mm2,
    )


def answering(
    result: ReportedResult, order: OrderReference, specimen_id: str | None
) -> ReportedResult:
    """Return a result with the numbers of an order that came after it.

    Args:
        result: As it was made.
        order: The order.
        specimen_id: The order's specimen, for a result that names none.
    """
    own = result.identity
    identity = ResultIdentity(
        own.accession, own.specimen_id or specimen_id, own.order_id or order.placer_number
    )
    return replace(result, identity=identity, filler_number=order.filler_number)


def _read(document: Mapping[str, Any]) -> ReportedResult:
    model, image, parameters = document["model"], document["image"], document["parameters"]
    identity, software = document["identity"], document["software"]
    status = document["status"]
    if status not in get_args(ResultStatus):
        raise ValueError(f"the result document has the unknown status {status!r}")
    interval, review = document.get("count_interval"), document.get("review")
    provenance = document.get("provenance")
    return ReportedResult(
        id=document["id"],
        identity=ResultIdentity(
            identity["accession"], identity["specimen_id"], identity["order_id"]
        ),
        filler_number=(document.get("order") or {}).get("filler_number"),
        created_utc=document["created_utc"],
        status=status,
        count=document["count"],
        count_interval=None
        if interval is None
        else CountInterval(
            interval["lower"], interval["upper"], interval["level"], interval["method"]
        ),
        density_per_mm2=document["density_per_mm2"],
        foreground_fraction=document["foreground_fraction"],
        width_px=image["width"],
        height_px=image["height"],
        mpp=image["mpp"],
        mpp_source=image["mpp_source"],
        mpp_tag=image["mpp_tag"],
        model_name=model["name"],
        model_version=model["version"],
        model_digest=model["digest"],
        software_name=software["name"],
        software_version=software["version"],
        thresholds=Thresholds(
            parameters["threshold"], parameters["seed_threshold"], parameters["min_area_px"]
        ),
        provider=document["provider"],
        precision=document.get("precision"),
        input_sha256=image["sha256"],
        pixel_sha256=image["pixel_sha256"],
        flags=tuple(
            ReportedFlag(flag["name"], flag["fired"], flag["message"])
            for flag in document["quality"]["flags"]
        ),
        research_use_only=document["research_use_only"],
        review=None
        if review is None
        else Review(review["reviewer"], review.get("reason"), review["time_utc"]),
        attestation=None
        if provenance is None
        else orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS).decode(),
    )
