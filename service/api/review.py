"""POST /results/{id}/review: a person's word on a result, against the version that they saw."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api import record_schemas
from service.api.appointments import visit_of
from service.api.auth import ReviewCaller
from service.api.documentation import problem_answers
from service.api.idempotency import REPLAYED_HEADER, IdempotencyKeyHeader
from service.api.negotiation import JSON
from service.api.record_answers import RecordedResultAnswer
from service.api.results import ETAG_HEADER, ResultId, json_answer, to_answer
from service.api.reviewed_labels import labels_from_png, labels_from_runs, number_and_encode
from service.api.schemas import RunLengths
from service.api.state import IdempotencyKeysDependency, RecorderDependency, StateDependency
from service.api.upload import read_json_bytes
from service.errors import InvalidParameterError, PreconditionRequiredError, StaleVersionError
from service.records.audit import Transaction
from service.records.idempotency import StoredAnswer
from service.records.results import RecordedResult, get_result
from service.records.reviews import Decision, Review, add_review

router = APIRouter(tags=["results"])

_ENTITY_TAG = re.compile(r'"([0-9]{1,9})"')


class _Body(BaseModel):
    """Base: closed, and documented by the strings under the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PngLabels(_Body):
    """Nuclei as a PNG file."""

    encoding: Literal["png"]
    """Always `png`."""
    data: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """A grey PNG of 8 or 16 bits and the image's size, in base64: 0 background, else a nucleus."""


class RunLengthLabels(_Body):
    """Nuclei as run lengths."""

    encoding: Literal["rle"]
    """Always `rle`."""
    nuclei: list[RunLengths] = Field(max_length=65_535)
    """One entry a nucleus; they must not overlap."""


class ReviewRequest(_Body):
    """A reviewer's decision."""

    decision: Decision
    """`accept` makes the result final, `edit` corrected, `reject` cancelled."""
    reviewer: str = Field(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$",
        examples=["pathologist-7"],
    )
    """The person, as your system names them; blanks name nobody."""
    reason: str | None = Field(
        default=None,
        min_length=1,
        max_length=4000,
        pattern=r"^[^\x00]*[^\s\x00][^\x00]*$",
        examples=["Two merged nuclei split by hand."],
    )
    """Why; required but for `accept`."""
    count: int | None = Field(default=None, ge=0, le=10_000_000, examples=[125])
    """The right number of nuclei; for `edit`."""
    labels: Annotated[PngLabels | RunLengthLabels, Field(discriminator="encoding")] | None = None
    """The right nuclei; for `edit`. They give the count too."""

    def check(self) -> None:
        """Refuse what contradicts the decision.

        Raises:
            InvalidParameterError: Something does.
        """
        edited = self.count is not None or self.labels is not None
        if self.decision == "edit" and not edited:
            raise _wrong("count", "edit needs a count, or labels.")
        if self.decision != "edit" and edited:
            raise _wrong("decision", f"{self.decision} takes neither count nor labels; use edit.")
        if self.decision != "accept" and self.reason is None:
            raise _wrong("reason", f"{self.decision} needs a reason.")


def _wrong(parameter: str, message: str) -> InvalidParameterError:
    return InvalidParameterError(message, parameter=parameter, place="body")


def parse_if_match(header: str | None) -> int | None:
    """Return the version that If-Match names; None for `*`.

    Raises:
        PreconditionRequiredError: There is no such header.
        StaleVersionError: It names no version that a result could have.
    """
    if header is None:
        raise PreconditionRequiredError(
            "Send the ETag of the result as If-Match, so that no review overwrites another unseen."
        )
    if header.strip() == "*":
        return None
    form = _ENTITY_TAG.fullmatch(header.strip())
    if form is None:
        raise StaleVersionError('If-Match must be the ETag of the result, such as "1".')
    return int(form.group(1))


def _parse(body: bytes) -> ReviewRequest:
    try:
        asked = ReviewRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
        ) from error
    asked.check()
    return asked


def _to_review(asked: ReviewRequest, result: RecordedResult) -> Review:
    """Check drawn labels against the image of the result, and count them. Blocking."""
    count, labels_png = asked.count, None
    if asked.labels is not None:
        image = result.document["image"]
        size = image["width"], image["height"]
        if isinstance(asked.labels, PngLabels):
            labels = labels_from_png(asked.labels.data, *size)
        else:
            runs = [(item.size, item.counts) for item in asked.labels.nuclei]
            labels = labels_from_runs(runs, *size)
        drawn, labels_png = number_and_encode(labels)
        if count not in (None, drawn):
            raise _wrong("count", f"count is {count}, but the labels show {drawn} nuclei.")
        count = drawn
    return Review(asked.decision, asked.reviewer, asked.reason, count, labels_png)


_EXAMPLE = {
    "decision": "edit",
    "count": 125,
    "reviewer": "pathologist-7",
    "reason": "Two merged nuclei split by hand.",
}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"$ref": f"#/components/schemas/{ReviewRequest.__name__}"},
            "example": _EXAMPLE,
        }
    },
}


@router.post(
    "/results/{id}/review",
    operation_id="reviewResult",
    summary="Accept, edit or reject a result",
    response_class=Response,
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses={
        **json_answer(
            RecordedResultAnswer,
            "The result as it stands now.",
            record_schemas.RESULT_EXAMPLE,
            **ETAG_HEADER,
            **REPLAYED_HEADER,
        ),
        **problem_answers(
            "unknown-result",
            "records-off",
            "upload-timeout",
            "review-conflict",
            "idempotency-key-in-flight",
            "stale-version",
            "body-too-large",
            "unsupported-body",
            "invalid-parameter",
            "idempotency-key-reused",
            "precondition-required",
            "internal-error",
            "overloaded",
            "not-ready",
            "records-unavailable",
        ),
    },
)
async def review_result(
    caller: ReviewCaller,
    request: Request,
    state: StateDependency,
    recorder: RecorderDependency,
    keys: IdempotencyKeysDependency,
    id: ResultId,  # noqa: A002  the name callers see
    if_match: Annotated[
        str | None,
        Header(
            description="ETag of the result that the reviewer saw; `*` takes any.",
            max_length=200,
            examples=['"1"'],
        ),
    ] = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Accept makes a result final, edit corrected, reject cancelled; earlier states stay readable.

    `If-Match` is required: a review of a state that is no longer the present one is refused with
    412. Final and corrected results can still be edited or rejected, cancelled ones cannot.
    """
    expected = parse_if_match(if_match)
    visit = visit_of(request, caller.id)
    async with (
        keys.turn(request, caller.id, idempotency_key) as turn,
        state.pool.room.place(visit=visit),
    ):
        body = await read_json_bytes(request, timeout_s=state.settings.upload_timeout_s)
        if (given := await turn.begin(body, if_match or "")) is not None:
            return given
        asked = await state.pool.aside(lambda: _parse(body))
        seen = await recorder.read(lambda connection: get_result(connection, id))
        review = await state.pool.aside(lambda: _to_review(asked, seen))

        def file(transaction: Transaction) -> StoredAnswer:
            result = add_review(transaction, id, review, expected_version=expected, actor=caller.id)
            return to_answer(
                record_schemas.recorded_document(result), version=result.current.version
            )

        return await turn.file(file)
