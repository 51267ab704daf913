"""GET /results, /results/{id} and /results/{id}/history: what was recorded; views are audited."""

import datetime as dt
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from service.api import record_schemas
from service.api.auth import ResultsCaller
from service.api.documentation import REQUEST_ID_HEADER, problem_answers
from service.api.idempotency import to_response
from service.api.negotiation import JSON
from service.api.record_answers import (
    RecordedResultAnswer,
    ResultHistory,
    ResultList,
    ResultStatus,
)
from service.api.state import RecorderDependency
from service.errors import InvalidParameterError
from service.records.idempotency import StoredAnswer
from service.records.result_list import ResultFilter, list_results
from service.records.results import get_result, get_versions
from service.records.times import utc_text

router = APIRouter(tags=["results"])

Identifier = Annotated[
    str | None, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$", examples=["S26-1234"])
]
ResultId = Annotated[
    str,
    Path(
        description="Identifier of the result: `id` of the answer, or `X-Karyon-Id`.",
        pattern=r"^[0-9a-f]{32}$",
        examples=["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"],
    ),
]
ETAG_HEADER: dict[str, Any] = {
    "ETag": {
        "description": "Version of the result; give it as If-Match with a review.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
        "example": '"2"',
    }
}
_PROBLEMS = (
    "records-off",
    "invalid-parameter",
    "internal-error",
    "not-ready",
    "records-unavailable",
)


def _only_text(value: object) -> object:
    """Refuse numbers, which pydantic would take for seconds since 1970."""
    if isinstance(value, str) and value.strip().lstrip("+-").replace(".", "").isdecimal():
        raise ValueError("give a date and time such as 2026-11-22T12:00:00Z")
    return value


Time = Annotated[
    dt.datetime | None,
    BeforeValidator(_only_text),
    Field(examples=["2026-11-22T12:00:00Z"]),
]


class ResultQuery(BaseModel):
    """Which results are wanted; an unknown parameter is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    accession: Identifier = None
    """Results of this case."""
    specimen_id: Identifier = None
    """Results of this specimen."""
    order_id: Identifier = None
    """Results of this order."""
    model: Annotated[
        str | None,
        Field(max_length=200, pattern=r"^[ -~]+$", examples=["efficientnetv2b0_unet"]),
    ] = None
    """Results of this model, as `name` or `name:version`."""
    status: ResultStatus | None = None
    """Results that stand so."""
    held: bool | None = None
    """`true`: results that wait for an order; `false`: those that do not."""
    since: Time = None
    """Results made at this time or later; without an offset, UTC."""
    until: Time = None
    """Results made before this time."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most results on a page."""
    cursor: Annotated[str | None, Field(max_length=200)] = None
    """`next_cursor` of the page before."""

    def to_filter(self) -> ResultFilter:
        """Return the filter.

        Raises:
            InvalidParameterError: A time lies beyond the calendar.
        """
        return ResultFilter(
            accession=self.accession,
            specimen_id=self.specimen_id,
            order_id=self.order_id,
            model=self.model,
            status=self.status,
            held=self.held,
            since_utc=_to_utc("since", self.since),
            until_utc=_to_utc("until", self.until),
        )


def _to_utc(parameter: str, time: dt.datetime | None) -> str | None:
    if time is None:
        return None
    try:
        return utc_text(time if time.tzinfo else time.replace(tzinfo=dt.UTC))
    except OverflowError as error:
        raise InvalidParameterError(
            f"{parameter} lies beyond the calendar.", parameter=parameter
        ) from error


def json_answer(
    model: type[BaseModel], description: str, example: dict[str, Any], **headers: Any
) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` entry for a JSON answer that is built by hand."""
    return {
        200: {
            "description": description,
            "headers": {**REQUEST_ID_HEADER, **headers},
            "content": {
                JSON: {
                    "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
                    "example": example,
                }
            },
        }
    }


def to_answer(document: dict[str, Any], *, version: int | None = None) -> StoredAnswer:
    """Serialise an answer, with the version of a result as its ETag."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    # Results are a laboratory's own business: no cache on the way may keep one.
    headers["Cache-Control"] = "no-store"
    return StoredAnswer(200, JSON, headers, orjson.dumps(document))


@router.get(
    "/results",
    operation_id="listResults",
    summary="List and search recorded results",
    response_class=Response,
    responses={
        **json_answer(ResultList, "A page of results.", record_schemas.LIST_EXAMPLE),
        **problem_answers(*_PROBLEMS),
    },
)
async def list_recorded_results(
    caller: ResultsCaller, recorder: RecorderDependency, query: Annotated[ResultQuery, Query()]
) -> Response:
    """The newest first; give `next_cursor` as `cursor` to go on. What was shown is audited."""
    wanted = query.to_filter()
    page, following = await recorder.read(
        lambda connection: list_results(connection, wanted, cursor=query.cursor, most=query.limit)
    )
    # Which values were searched for stays out: an accession number may identify a patient.
    details = {
        "filters": sorted(query.model_dump(exclude_none=True, exclude={"limit", "cursor"})),
        "results": [result.id for result in page],
    }
    await recorder.write(
        lambda transaction: transaction.audit(
            "results.listed", actor=caller.id, subject="results", details=details
        )
    )
    return to_response(
        to_answer(
            {
                "results": [record_schemas.recorded_document(result) for result in page],
                "next_cursor": following,
            }
        )
    )


@router.get(
    "/results/{id}",
    operation_id="getResult",
    summary="Read a recorded result",
    response_class=Response,
    responses={
        **json_answer(
            RecordedResultAnswer,
            "The result as it is filed.",
            record_schemas.RESULT_EXAMPLE,
            **ETAG_HEADER,
        ),
        **problem_answers("unknown-result", *_PROBLEMS),
    },
)
async def get_recorded_result(
    caller: ResultsCaller,
    recorder: RecorderDependency,
    id: ResultId,  # noqa: A002  the name callers see
) -> Response:
    """The result with its present status and count. The view is audited."""
    result = await recorder.read(lambda connection: get_result(connection, id))
    version = result.current.version
    await recorder.write(
        lambda transaction: transaction.audit(
            "result.viewed", actor=caller.id, subject=id, details={"version": version}
        )
    )
    return to_response(to_answer(record_schemas.recorded_document(result), version=version))


@router.get(
    "/results/{id}/history",
    operation_id="getResultHistory",
    summary="Read all states of a result",
    response_class=Response,
    responses={
        **json_answer(
            ResultHistory,
            "Every state, the first first.",
            record_schemas.HISTORY_EXAMPLE,
        ),
        **problem_answers("unknown-result", *_PROBLEMS),
    },
)
async def get_result_history(
    caller: ResultsCaller,
    recorder: RecorderDependency,
    id: ResultId,  # noqa: A002  the name callers see
) -> Response:
    """As the model made it, and as each review left it. The view is audited."""
    versions = await recorder.read(lambda connection: get_versions(connection, id))
    await recorder.write(
        lambda transaction: transaction.audit(
            "result.viewed", actor=caller.id, subject=id, details={"history": True}
        )
    )
    return to_response(
        to_answer(
            {"id": id, "versions": [record_schemas.version_document(item) for item in versions]}
        )
    )
