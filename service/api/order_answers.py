"""The answers about orders: shapes, dicts, examples."""

import dataclasses
import re
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from service.errors import MalformedOrderError, UnusableOrderError
from service.records.orders import Order, OrderStatus

_ID: Final = "5b0c7d5e8a3f4c0e9d1b2a6c4f8e7d10"


class _Answer(BaseModel):
    """Base: closed, and documented by the strings under the fields."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class OrderAnswer(_Answer):
    """An order as it stands."""

    id: str = Field(examples=[_ID])
    """Identifier in this service."""
    status: OrderStatus
    """`open` without a result, `in-progress` with one that nobody has reviewed, `completed` once
    all are reviewed, or `cancelled`."""
    placer_number: str = Field(examples=["ORD-778812"])
    """Number that its placer gave it: ORC-2, or the identifier of type PLAC."""
    filler_number: str | None = Field(examples=["LAB-26-0991"])
    """Number that the laboratory system gave it: ORC-3, or the identifier of type FILL."""
    accession: str = Field(examples=["S26-1234"])
    """Accession number of the case: an image that is sent with it answers the order."""
    specimen_id: str | None = Field(examples=["S26-1234-A1"])
    """The specimen, where the order has one and no more."""
    caller: str = Field(examples=["key:3f9c2a71"])
    """Who sent it; `mllp` over MLLP, which has no logins."""
    created_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """When it came."""
    changed_utc: str = Field(examples=["2026-11-22T12:10:00.000Z"])
    """Since when it stands so."""
    results: list[str] = Field(examples=[["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"]])
    """Identifiers of the results that answer it, the first bound first."""


class FiledOrders(_Answer):
    """The orders of one message, as they stand now."""

    orders: list[OrderAnswer]
    """In the order of the message."""


class OrderList(_Answer):
    """A page of orders, the newest first."""

    orders: list[OrderAnswer]
    """The orders of this page."""
    next_cursor: str | None = Field(examples=["YmVmb3JlOjQx"])
    """Give it as `cursor` for the next page; null on the last."""


ANSWERS: tuple[type[BaseModel], ...] = (OrderAnswer, FiledOrders, OrderList)
"""Shapes that routes refer to by hand."""


def order_document(order: Order, results: list[str]) -> dict[str, Any]:
    """Return an `OrderAnswer` as a dict."""
    document = dataclasses.asdict(order)
    del document["sequence"]
    return {**document, "results": results}


def outcome_document(orders: list[Order]) -> bytes:
    """Return what became of orders as a FHIR OperationOutcome, JSON in UTF-8."""
    said = [
        {
            "severity": "information",
            "code": "informational",
            "diagnostics": f"Order {order.placer_number} is {order.status} as {order.id}.",
        }
        for order in orders
    ]
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": said})


# FHIR's IssueType for HL7's error codes (table 0357); what is no order message is `structure`.
_ISSUE_TYPES: Final = {100: "structure", 101: "required", 204: "not-found", 205: "conflict"}


def refusal_document(error: UnusableOrderError) -> bytes:
    """Return why orders were not filed as a FHIR OperationOutcome, JSON in UTF-8."""
    malformed = isinstance(error, MalformedOrderError)
    issue: dict[str, Any] = {
        "severity": "error",
        "code": "structure" if malformed else _ISSUE_TYPES.get(error.code, "value"),
        # Our own words: nothing of the message is repeated.
        "diagnostics": str(error),
    }
    if error.location:
        path = re.sub(r"\.([0-9]+)", r"[\1]", f"Bundle.{error.location}")
        issue["expression"] = [path]
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})


_OPEN: Final = Order(
    id=_ID,
    sequence=41,
    created_utc="2026-11-22T12:00:00.000Z",
    caller="key:3f9c2a71",
    placer_number="ORD-778812",
    filler_number="LAB-26-0991",
    accession="S26-1234",
    specimen_id="S26-1234-A1",
    status="open",
    changed_utc="2026-11-22T12:00:00.000Z",
)
ORDER_EXAMPLE = order_document(
    dataclasses.replace(_OPEN, status="in-progress", changed_utc="2026-11-22T12:10:00.000Z"),
    ["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"],
)
FILED_EXAMPLE: dict[str, Any] = {"orders": [order_document(_OPEN, [])]}
LIST_EXAMPLE: dict[str, Any] = {"orders": [ORDER_EXAMPLE], "next_cursor": None}
OUTCOME_EXAMPLE: dict[str, Any] = orjson.loads(outcome_document([_OPEN]))
REFUSAL_EXAMPLE: dict[str, Any] = orjson.loads(
    refusal_document(
        UnusableOrderError(
            "The placer order number is missing.", location="entry.0.resource.identifier"
        )
    )
)
OML_EXAMPLE: Final = (
    "MSH|^~\\&|LIS|HOSPITAL|KARYON|PATHOLOGY|20261122120000||OML^O21^OML_O21|MSG-1001|P|2.5.1\r"
    "ORC|NW|ORD-778812|LAB-26-0991\r"
    "OBR|1|ORD-778812|LAB-26-0991|nuclei-analysis^Nuclei in histology^L||||||||||||||S26-1234\r"
    "SPM|1|S26-1234-A1||TISS^Tissue^HL70487\r"
)
ACK_EXAMPLE: Final = (
    "MSH|^~\\&|KARYON|PATHOLOGY|LIS|HOSPITAL|20261122120000+0000||ACK^O21^ACK"
    "|a3f81c0de94b7720a1b5|P|2.5.1\r"
    "MSA|AA|MSG-1001\r"
)
BUNDLE_EXAMPLE: dict[str, Any] = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "fullUrl": "urn:uuid:3c1f0f52-2b7c-4a53-9a0e-0d6a3f1f9a10",
            "resource": {
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "order",
                "identifier": [
                    {"type": {"coding": [{"code": "PLAC"}]}, "value": "ORD-778812"},
                    {"type": {"coding": [{"code": "FILL"}]}, "value": "LAB-26-0991"},
                ],
                "subject": {"reference": "Patient/unknown-here"},
                "specimen": [{"reference": "urn:uuid:9b2d1a5e-6f0c-4f7e-8a39-1f3f1f9a100d"}],
            },
            "request": {"method": "POST", "url": "ServiceRequest"},
        },
        {
            "fullUrl": "urn:uuid:9b2d1a5e-6f0c-4f7e-8a39-1f3f1f9a100d",
            "resource": {
                "resourceType": "Specimen",
                "identifier": [{"value": "S26-1234-A1"}],
                "accessionIdentifier": {"value": "S26-1234"},
            },
            "request": {"method": "POST", "url": "Specimen"},
        },
    ],
}
