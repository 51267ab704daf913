"""From a filed state of a result to what is sent of it; the same state gives the same bytes."""

from dataclasses import dataclass
from typing import Any, get_args

import orjson

from service.outputs.identity import OrderReference
from service.outputs.png import labelled_fraction
from service.outputs.report import (
    ReportedResult,
    ResultStatus,
    Review,
    amended_result,
    answering,
    reported_result,
)
from service.records.results import RecordedResult, ResultVersion


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent of a state of a result.

    Attributes:
        key: Id of the delivery.
        control_id: What an HL7 receiver knows a resend by; empty for other destinations.
        body: The bytes.
    """

    key: str
    control_id: str
    body: bytes


def report_of(result: RecordedResult, version: ResultVersion) -> ReportedResult:
    """Return a state of a result as laboratory messages report it.

    Args:
        result: The result.
        version: The state, with the labels that hold in it (`standing_version`).

    Raises:
        ValueError: The filed document, or the status, is none that this version knows.
    """
    report = reported_result(result.document)
    order = result.order
    if order is not None:
        named = OrderReference(order.id, order.placer_number, order.filler_number)
        report = answering(report, named, order.specimen_id)
    if version.reviewer is None:
        return report
    statuses: tuple[ResultStatus, ...] = get_args(ResultStatus)
    status = next((known for known in statuses if known == version.status), None)
    if status is None:
        raise ValueError(f"the result has the unknown status {version.status!r}")
    review = Review(version.reviewer, version.reason, version.created_utc)
    drawn = version.labels_png
    return amended_result(
        report,
        status=status,
        review=review,
        count=version.count,
        drawn_fraction=None if drawn is None else labelled_fraction(drawn),
    )


def event_of(result: RecordedResult, version: ResultVersion) -> bytes:
    """Return a state of a result as the event that webhooks carry: JSON in UTF-8."""
    review: dict[str, Any] | None = None
    if version.decision is not None:
        review = {
            "decision": version.decision,
            "reviewer": version.reviewer,
            "reason": version.reason,
        }
    order: dict[str, Any] | None = None
    if result.order is not None:
        order = {
            "id": result.order.id,
            "placer_number": result.order.placer_number,
            "filler_number": result.order.filler_number,
        }
    return orjson.dumps(
        {
            "type": "result.created" if review is None else "result.reviewed",
            "timestamp": version.created_utc,
            "data": {
                "id": result.id,
                "version": version.version,
                "status": version.status,
                "count": version.count,
                "accession": result.accession,
                "specimen_id": result.specimen_id,
                "order_id": result.order_id,
                "order": order,
                "review": review,
                "document": result.document,
            },
        }
    )
