"""GET /audit: the audit trail as JSON Lines, streamed."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from service.api import record_schemas
from service.api.auth import AdminCaller
from service.api.documentation import REQUEST_ID_HEADER, problem_answers
from service.api.record_answers import AuditLine
from service.api.state import RecorderDependency
from service.records.audit import read_entries
from service.records.recorder import Recorder

router = APIRouter(tags=["results"])

JSON_LINES = "application/jsonl"
_LINES_AT_ONCE = 1000


async def _lines(recorder: Recorder, after: int, last: int) -> AsyncIterator[bytes]:
    """Yield the rows after one and up to another, a page of them at a time."""
    while after < last:
        most = min(_LINES_AT_ONCE, last - after)
        page = await recorder.read(
            lambda connection, after=after, most=most: read_entries(connection, after, most)  # type: ignore[misc]  # defaults bind the loop's values
        )
        if not page:
            return
        after = page[-1].sequence
        yield b"".join(entry.to_json() for entry in page)


@router.get(
    "/audit",
    operation_id="exportAudit",
    summary="Export the audit trail",
    response_class=Response,
    responses={
        200: {
            "description": "One JSON object a line, in order; this export is its last line.",
            "headers": REQUEST_ID_HEADER,
            "content": {
                JSON_LINES: {
                    # A stream of lines is no JSON value. OpenAPI 3.2 will call this itemSchema.
                    "schema": {"type": "string"},
                    "x-itemSchema": {"$ref": f"#/components/schemas/{AuditLine.__name__}"},
                    "example": record_schemas.AUDIT_LINE_EXAMPLE,
                }
            },
        },
        **problem_answers(
            "records-off",
            "invalid-parameter",
            "internal-error",
            "not-ready",
            "records-unavailable",
        ),
    },
)
async def export_audit(
    caller: AdminCaller,
    recorder: RecorderDependency,
    after: Annotated[
        int,
        Query(
            ge=0,
            le=2**53,
            description="Lines with a greater sequence number than this; to go on from a copy.",
        ),
    ] = 0,
) -> Response:
    """Every result, view, review, delivery, model activation and key change, chained by hashes.

    Each line is an `AuditLine`. Check a copy with `python -m service audit verify --export FILE`.
    """
    last = await recorder.write(
        lambda transaction: transaction.audit(
            "audit.exported", actor=caller.id, subject="audit", details={"after": after}
        )
    )
    return StreamingResponse(_lines(recorder, after, last), media_type=JSON_LINES)
