"""POST /orders, GET /orders, GET /orders/{id}: what a laboratory asks for; views are audited."""

import contextlib
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from service.api import order_answers
from service.api.appointments import visit_of
from service.api.auth import OrdersCaller
from service.api.documentation import VARY_HEADER, problem_answers
from service.api.idempotency import REPLAYED_HEADER, IdempotencyKeyHeader, to_response
from service.api.negotiation import FHIR, HL7, HL7_ER7, JSON, choose_representation
from service.api.order_answers import FiledOrders, OrderAnswer, OrderList, order_document
from service.api.order_upload import order_media_type, read_order
from service.api.problems import problem_response
from service.api.results import Identifier, json_answer, to_answer
from service.api.state import IdempotencyKeysDependency, RecorderDependency, StateDependency
from service.errors import MalformedOrderError, UnusableOrderError
from service.lims.acknowledgement import acknowledge
from service.lims.order_fhir import parse_bundle
from service.lims.order_hl7 import Hl7Header, parse_orders, read_header
from service.records.audit import Transaction
from service.records.bindings import file_orders
from service.records.idempotency import StoredAnswer
from service.records.orders import (
    Order,
    OrderRequest,
    OrderStatus,
    get_order,
    list_orders,
    results_of,
)

router = APIRouter(tags=["orders"])

_OFFERED: Final = {
    FHIR: (JSON, FHIR),
    HL7: (JSON, HL7, HL7_ER7),
    HL7_ER7: (JSON, HL7_ER7, HL7),
}
"""What is answered to a message of each kind, the default first."""
_PROBLEMS = (
    "records-off",
    "invalid-parameter",
    "internal-error",
    "not-ready",
    "records-unavailable",
)
_POST_PROBLEMS = (
    "malformed-request",
    "not-acceptable",
    "upload-timeout",
    "idempotency-key-in-flight",
    "order-conflict",
    "body-too-large",
    "unsupported-body",
    "unusable-order",
    "idempotency-key-reused",
    "overloaded",
    *_PROBLEMS,
)
_ACKNOWLEDGED: Final = (400, 409, 422)
"""Statuses that come as an ACK or an OperationOutcome where Accept asks for one."""

OrderId = Annotated[
    str,
    Path(
        description="Identifier of the order, as `POST /orders` answered.",
        pattern=r"^[0-9a-f]{32}$",
        examples=[order_answers.ORDER_EXAMPLE["id"]],
    ),
]


class OrderQuery(BaseModel):
    """Which orders are wanted; an unknown parameter is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    accession: Identifier = None
    """Orders of this case."""
    placer_number: Annotated[Identifier, Field(examples=["ORD-778812"])] = None
    """The order that its placer gave this number."""
    status: OrderStatus | None = None
    """Orders that stand so."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Most orders on a page."""
    cursor: Annotated[str | None, Field(max_length=200)] = None
    """`next_cursor` of the page before."""


def _described(kind: str, description: str, example: object = None) -> dict[str, Any]:
    described = {"schema": {"type": kind, "description": description}}
    return described if example is None else {**described, "example": example}


_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": (
        "FHIR R4 or HL7 version 2.5.1. Numbers alone are read and kept; of a patient nothing is."
    ),
    "content": {
        FHIR: _described(
            "object",
            "A Bundle (transaction or collection) of ServiceRequest and Specimen.",
            order_answers.BUNDLE_EXAMPLE,
        ),
        HL7_ER7: _described(
            "string", "A message OML^O21; ORC-1 NW or CA.", order_answers.OML_EXAMPLE
        ),
        HL7: _described("string", "The same."),
    },
}


def _post_responses() -> dict[int | str, dict[str, Any]]:
    responses = json_answer(
        FiledOrders,
        "The orders of the message, as they stand now.",
        order_answers.FILED_EXAMPLE,
        **VARY_HEADER,
        **REPLAYED_HEADER,
    )
    responses[200]["content"] |= {
        FHIR: _described("object", "An OperationOutcome.", order_answers.OUTCOME_EXAMPLE),
        HL7_ER7: _described("string", "An ACK: AA.", order_answers.ACK_EXAMPLE),
        HL7: _described("string", "The same."),
    }
    responses |= problem_answers(*_POST_PROBLEMS)
    for status in _ACKNOWLEDGED:
        responses[status]["content"] |= {
            FHIR: _described("object", "An OperationOutcome.", order_answers.REFUSAL_EXAMPLE),
            HL7_ER7: _described("string", "An ACK: AE or AR, with ERR."),
            HL7: _described("string", "The same."),
        }
    return responses


@router.post(
    "/orders",
    operation_id="placeOrders",
    summary="Place and cancel orders",
    response_class=Response,
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses=_post_responses(),
)
async def place_orders(
    caller: OrdersCaller,
    request: Request,
    state: StateDependency,
    keys: IdempotencyKeysDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """An image that is sent later with the accession number of an order answers it.

    All orders of a message are filed, or none. The same order twice is filed once, by its placer
    number. HL7 is answered by an ACK where Accept asks for `x-application/hl7-v2+er7`, FHIR by an
    OperationOutcome where it asks for `application/fhir+json`.
    """
    kind = order_media_type(request)
    accept = ",".join(request.headers.getlist("accept"))
    media_type = choose_representation(accept, _OFFERED[kind])
    settings = state.settings
    parties = settings.hl7_parties
    visit = visit_of(request, caller.id)
    async with (
        keys.turn(request, caller.id, idempotency_key) as turn,
        state.pool.room.place(visit=visit),
    ):
        body = await read_order(
            request,
            most_bytes=settings.max_order_bytes,
            timeout_s=settings.upload_timeout_s,
        )
        if (given := await turn.begin(body, kind, media_type)) is not None:
            return given

        def parse() -> tuple[list[OrderRequest], bytes]:
            if kind == FHIR:
                return parse_bundle(body), b""
            requests = parse_orders(body, processing_id=parties.processing_id)
            return requests, acknowledge(body, read_header(body), parties)

        def file(transaction: Transaction) -> StoredAnswer:
            orders = file_orders(transaction, requests, actor=caller.id)
            return _represent(transaction, orders, media_type, accepted)

        try:
            requests, accepted = await state.pool.aside(parse)
            return await turn.file(file)
        except UnusableOrderError as error:
            problem = problem_response(request, error)
            if media_type == JSON:
                return problem
            if media_type == FHIR:
                refusal = order_answers.refusal_document(error)
            else:
                refusal = acknowledge(body, _header(body), parties, error)
            return Response(
                refusal,
                status_code=problem.status_code,
                media_type=media_type,
                headers={"Vary": "Accept"},
            )


def _header(message: bytes) -> Hl7Header:
    with contextlib.suppress(MalformedOrderError):
        return read_header(message)
    return Hl7Header()


def _represent(
    transaction: Transaction, orders: list[Order], media_type: str, accepted: bytes
) -> StoredAnswer:
    """Return the answer to a message that was carried out; `accepted` is its ACK."""
    if media_type == FHIR:
        body = order_answers.outcome_document(orders)
    elif media_type == JSON:
        results = results_of(transaction.connection, [order.id for order in orders])
        documents = [order_document(order, results[order.id]) for order in orders]
        answer = to_answer({"orders": documents})
        return StoredAnswer(200, JSON, {**answer.headers, "Vary": "Accept"}, answer.body)
    else:
        body = accepted
    return StoredAnswer(200, media_type, {"Vary": "Accept", "Cache-Control": "no-store"}, body)


@router.get(
    "/orders",
    operation_id="listOrders",
    summary="List orders",
    response_class=Response,
    responses={
        **json_answer(OrderList, "A page of orders.", order_answers.LIST_EXAMPLE),
        **problem_answers(*_PROBLEMS),
    },
)
async def list_filed_orders(
    caller: OrdersCaller, recorder: RecorderDependency, query: Annotated[OrderQuery, Query()]
) -> Response:
    """The newest first; give `next_cursor` as `cursor` to go on. What was shown is audited."""
    asked = query.model_dump(exclude={"limit"})

    def read(connection: Any) -> tuple[list[dict[str, Any]], str | None]:
        page, following = list_orders(connection, **asked, most=query.limit)
        results = results_of(connection, [order.id for order in page])
        return [order_document(order, results[order.id]) for order in page], following

    documents, following = await recorder.read(read)
    details = {
        "filters": sorted(query.model_dump(exclude_none=True, exclude={"limit", "cursor"})),
        "orders": [document["id"] for document in documents],
    }
    await recorder.write(
        lambda transaction: transaction.audit(
            "orders.listed", actor=caller.id, subject="orders", details=details
        )
    )
    return to_response(to_answer({"orders": documents, "next_cursor": following}))


@router.get(
    "/orders/{id}",
    operation_id="getOrder",
    summary="Read an order",
    response_class=Response,
    responses={
        **json_answer(OrderAnswer, "The order as it stands.", order_answers.ORDER_EXAMPLE),
        **problem_answers("unknown-order", *_PROBLEMS),
    },
)
async def get_filed_order(
    caller: OrdersCaller,
    recorder: RecorderDependency,
    id: OrderId,  # noqa: A002  the name callers see
) -> Response:
    """The order with its status and the results that answer it. The view is audited."""

    def read(connection: Any) -> dict[str, Any]:
        order = get_order(connection, id)
        return order_document(order, results_of(connection, [id])[id])

    document = await recorder.read(read)
    await recorder.write(
        lambda transaction: transaction.audit(
            "order.viewed", actor=caller.id, subject=id, details={}
        )
    )
    return to_response(to_answer(document))
