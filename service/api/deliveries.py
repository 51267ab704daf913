"""GET /deliveries, POST /deliveries/{id}/resend: what was sent where, and what did not arrive."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.auth import AdminCaller, ResultsCaller
from service.api.documentation import problem_answers
from service.api.idempotency import to_response
from service.api.results import json_answer, to_answer
from service.api.state import RecorderDependency
from service.records.outbox import (
    Delivery,
    DeliveryStatus,
    delivery_id,
    list_deliveries,
    resend,
)

router = APIRouter(tags=["results"])

_RESULT_ID = "0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"
_HEXADECIMAL_ID = r"^[0-9a-f]{32}$"
DeliveryId = Annotated[
    str,
    Path(
        description="Identifier of the delivery: `id` in the list, `webhook-id` at the receiver.",
        pattern=_HEXADECIMAL_ID,
        examples=[delivery_id(_RESULT_ID, 1, "lims")],
    ),
]
_PROBLEMS = (
    "records-off",
    "invalid-parameter",
    "internal-error",
    "not-ready",
    "records-unavailable",
)


class _Answer(BaseModel):
    """Base: closed, and documented by the strings under the fields."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class DeliveryAnswer(_Answer):
    """One version of a result on its way to one destination."""

    id: str = Field(examples=[delivery_id(_RESULT_ID, 1, "lims")])
    """The key by which a receiver knows a resend."""
    result_id: str = Field(examples=[_RESULT_ID])
    """The result."""
    version: int = Field(ge=1, examples=[1])
    """Which version of it: 1 as the model made it, then one more with each review."""
    destination: str = Field(examples=["lims"])
    """Name of the destination."""
    status: DeliveryStatus
    """`dead` is given up, until it is resent; `held` waits for an order."""
    attempts: int = Field(ge=0, examples=[1])
    """How often it was tried."""
    created_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """When the version was filed."""
    queued_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """When it was queued, or queued again."""
    next_attempt_utc: str | None = Field(examples=[None])
    """Not tried before; null unless pending."""
    outcome: str | None = Field(examples=["HTTP 200"])
    """What came of the last attempt."""


class DeliveryList(_Answer):
    """A page of deliveries, the newest first."""

    deliveries: list[DeliveryAnswer]
    """The deliveries of this page."""
    next_before: int | None = Field(examples=[None])
    """Give it as `before` for the next page; null on the last."""


ANSWERS: tuple[type[BaseModel], ...] = (DeliveryAnswer, DeliveryList)
"""Shapes that routes refer to by hand."""


class DeliveryQuery(BaseModel):
    """Which deliveries are wanted; an unknown parameter is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    status: DeliveryStatus | None = None
    """Deliveries that stand so; `dead` are those to look after."""
    result_id: Annotated[str | None, Field(pattern=_HEXADECIMAL_ID)] = None
    """Deliveries of this result."""
    destination: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = None
    """Deliveries to this destination."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most deliveries on a page."""
    before: Annotated[int | None, Field(ge=1, le=2**53)] = None
    """`next_before` of the page before."""


def _document(delivery: Delivery) -> dict[str, Any]:
    document = dataclasses.asdict(delivery)
    for internal in ("sequence", "in_flight"):
        del document[internal]
    next_utc = document.pop("next_utc")
    return {**document, "next_attempt_utc": next_utc if delivery.status == "pending" else None}


def _example(**changes: Any) -> dict[str, Any]:
    delivered = Delivery(
        id=delivery_id(_RESULT_ID, 1, "lims"),
        sequence=42,
        result_id=_RESULT_ID,
        version=1,
        destination="lims",
        status="delivered",
        attempts=1,
        created_utc="2026-11-22T12:00:00.000Z",
        queued_utc="2026-11-22T12:00:00.000Z",
        next_utc="2026-11-22T12:00:00.310Z",
        in_flight=False,
        outcome="HTTP 200",
    )
    return _document(dataclasses.replace(delivered, **changes))


@router.get(
    "/deliveries",
    operation_id="listDeliveries",
    summary="List deliveries",
    response_class=Response,
    responses={
        **json_answer(
            DeliveryList,
            "A page of deliveries.",
            {"deliveries": [_example()], "next_before": None},
        ),
        **problem_answers(*_PROBLEMS),
    },
)
async def list_outbox(
    caller: ResultsCaller, recorder: RecorderDependency, query: Annotated[DeliveryQuery, Query()]
) -> Response:
    """The newest first. `status=dead` lists what was given up; resend it once the cause is gone."""
    del caller  # asked for their scope; a delivery shows nothing of the result
    found = await recorder.read(
        lambda connection: list_deliveries(
            connection,
            status=query.status,
            result_id=query.result_id,
            destination=query.destination,
            before=query.before,
            most=query.limit + 1,
        )
    )
    page = found[: query.limit]
    more = len(found) > query.limit
    return to_response(
        to_answer(
            {
                "deliveries": [_document(delivery) for delivery in page],
                "next_before": page[-1].sequence if more else None,
            }
        )
    )


@router.post(
    "/deliveries/{id}/resend",
    operation_id="resendDelivery",
    summary="Send a delivery again",
    response_class=Response,
    responses={
        **json_answer(
            DeliveryAnswer,
            "The delivery, on its way again.",
            _example(status="pending", outcome="HTTP 422", queued_utc="2026-11-22T12:30:00.000Z"),
        ),
        **problem_answers("unknown-delivery", "delivery-held", "delivery-superseded", *_PROBLEMS),
    },
)
async def resend_delivery(
    caller: AdminCaller,
    recorder: RecorderDependency,
    id: DeliveryId,  # noqa: A002  the name callers see
) -> Response:
    """A dead or delivered one is queued again, a pending one is tried now; its id stays the same.

    A destination that was disabled by its 410 is enabled again. Twice is as good as once, so no
    Idempotency-Key is needed.
    """
    delivery = await recorder.write(lambda transaction: resend(transaction, id, actor=caller.id))
    return to_response(to_answer(_document(delivery)))
