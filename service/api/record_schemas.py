"""The answers about recorded results, built as plain dicts, like the others; and examples."""

import dataclasses
from typing import Any

from pydantic import BaseModel

from service.api.examples import SEGMENTATION_EXAMPLE
from service.api.record_answers import AuditLine, RecordedResultAnswer, ResultHistory, ResultList
from service.records.audit import FIRST_HASH, AuditEntry
from service.records.results import RecordedResult, ResultVersion

ANSWERS: tuple[type[BaseModel], ...] = (RecordedResultAnswer, ResultList, ResultHistory, AuditLine)
"""Shapes that routes refer to by hand."""


def version_document(version: ResultVersion) -> dict[str, Any]:
    """Return a `ResultVersionAnswer` as a dict."""
    review = None
    if version.decision is not None:
        review = {
            "decision": version.decision,
            "reviewer": version.reviewer,
            "reason": version.reason,
            "labels_sha256": version.labels_sha256,
        }
    return {
        "version": version.version,
        "status": version.status,
        "count": version.count,
        "created_utc": version.created_utc,
        "actor": version.actor,
        "review": review,
    }


def recorded_document(result: RecordedResult) -> dict[str, Any]:
    """Return a `RecordedResultAnswer` as a dict."""
    order = result.order
    return {
        "id": result.id,
        "accession": result.accession,
        "specimen_id": result.specimen_id,
        "order_id": result.order_id,
        "order": None
        if order is None
        else {
            "id": order.id,
            "placer_number": order.placer_number,
            "filler_number": order.filler_number,
            "bound_utc": order.bound_utc,
        },
        "held": result.held_utc is not None,
        "caller": result.caller,
        "pixel_sha256": result.pixel_sha256,
        "software": result.software,
        "current": version_document(result.current),
        "document": result.document,
    }


_FIRST_VERSION: dict[str, Any] = {
    "version": 1,
    "status": "preliminary",
    "count": SEGMENTATION_EXAMPLE["count"],
    "created_utc": SEGMENTATION_EXAMPLE["created_utc"],
    "actor": "key:3f9c2a71",
    "review": None,
}
_SECOND_VERSION: dict[str, Any] = {
    "version": 2,
    "status": "corrected",
    "count": SEGMENTATION_EXAMPLE["count"] + 2,
    "created_utc": "2026-11-22T12:30:00.000Z",
    "actor": "key:3f9c2a71",
    "review": {
        "decision": "edit",
        "reviewer": "pathologist-7",
        "reason": "Two merged nuclei split by hand.",
        "labels_sha256": None,
    },
}
RESULT_EXAMPLE: dict[str, Any] = {
    "id": SEGMENTATION_EXAMPLE["id"],
    "accession": "S26-1234",
    "specimen_id": "S26-1234-A1",
    "order_id": "ORD-99",
    "order": {
        "id": "5b0c7d5e8a3f4c0e9d1b2a6c4f8e7d10",
        "placer_number": "ORD-99",
        "filler_number": "LAB-26-0991",
        "bound_utc": "2026-11-22T12:00:00.000Z",
    },
    "held": False,
    "caller": "key:3f9c2a71",
    "pixel_sha256": "9f86d081884c7d65" * 4,
    "software": {"karyon": "0.1.0", "onnxruntime": "1.31.0"},
    "current": _SECOND_VERSION,
    "document": {k: v for k, v in SEGMENTATION_EXAMPLE.items() if k not in ("nuclei", "mask")},
}
LIST_EXAMPLE: dict[str, Any] = {"results": [RESULT_EXAMPLE], "next_cursor": "YmVmb3JlOjQx"}
HISTORY_EXAMPLE: dict[str, Any] = {
    "id": SEGMENTATION_EXAMPLE["id"],
    "versions": [_FIRST_VERSION, _SECOND_VERSION],
}
_VIEW = AuditEntry(
    sequence=1,
    occurred_utc="2026-11-22T12:00:00.000Z",
    action="result.viewed",
    actor="key:3f9c2a71",
    subject=SEGMENTATION_EXAMPLE["id"],
    details='{"version":1}',
    previous_hash=FIRST_HASH,
    hash="",
)
AUDIT_LINE_EXAMPLE = dataclasses.replace(_VIEW, hash=_VIEW.computed_hash()).to_json().decode()
