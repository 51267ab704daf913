"""The shapes of the answers about recorded results; no more imported than their fields need.

The Python client reads answers by these classes, so nothing here may import the database.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.provenance_schemas import OrderReferenceAnswer
from service.api.schemas import SHA256

ResultStatus = Literal["preliminary", "final", "corrected", "cancelled"]


class _Answer(BaseModel):
    """Base: closed (no other members) and documented by the strings under the fields."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class ReviewSummary(_Answer):
    """What a reviewer decided."""

    decision: Literal["accept", "edit", "reject"]
    """The decision."""
    reviewer: str = Field(examples=["pathologist-7"])
    """The person, as the calling system names them."""
    reason: str | None = Field(examples=["Two merged nuclei split by hand."])
    """Why."""
    labels_sha256: str | None = Field(examples=[None])
    """SHA-256 of the labels the reviewer drew, as the 16-bit PNG that is kept."""


class ResultVersionAnswer(_Answer):
    """One state of a result; all of them stay readable."""

    version: int = Field(ge=1, examples=[2])
    """1 as the model made it, then one more with each review; the ETag of the result."""
    status: ResultStatus
    """Where the result stands."""
    count: int = Field(ge=0, examples=[121])
    """Number of nuclei."""
    created_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """Since when."""
    actor: str = Field(examples=["key:3f9c2a71"])
    """The caller who brought it about."""
    review: ReviewSummary | None
    """The decision; null for version 1."""


class BoundOrderAnswer(OrderReferenceAnswer):
    """The order that a recorded result answers."""

    bound_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """Since when; later than the result where that waited for it."""


class RecordedResultAnswer(_Answer):
    """A result as it is filed."""

    id: str = Field(examples=["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"])
    """Identifier, as in the answer of `POST /segment`."""
    accession: str | None = Field(examples=["S26-1234"])
    """Identifier of the case, as the caller gave it."""
    specimen_id: str | None = Field(examples=["S26-1234-A1"])
    """Identifier of the specimen: the caller's, else the order's."""
    order_id: str | None = Field(examples=["ORD-99"])
    """Number of the order: the caller's, else the order's placer number."""
    order: BoundOrderAnswer | None = None
    """The order that it answers."""
    held: bool = Field(default=False, examples=[False])
    """Whether it waits for an order and is not delivered before that comes."""
    caller: str = Field(examples=["key:3f9c2a71"])
    """Who asked for the segmentation."""
    pixel_sha256: str = SHA256
    """SHA-256 of the decoded pixels, as `image.pixel_sha256` of the answer."""
    software: dict[str, str] = Field(examples=[{"karyon": "0.1.0", "onnxruntime": "1.31.0"}])
    """Versions of what made it."""
    current: ResultVersionAnswer
    """Its present state: this count and status count, not those in `document`."""
    document: dict[str, Any]
    """The answer of `POST /segment` as it was sent, without nuclei and mask. It never changes."""


class ResultList(_Answer):
    """A page of results, the newest first."""

    results: list[RecordedResultAnswer]
    """The results of this page."""
    next_cursor: str | None = Field(examples=["YmVmb3JlOjQx"])
    """Give it as `cursor` for the next page; null on the last."""


class ResultHistory(_Answer):
    """All states of a result."""

    id: str = Field(examples=["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"])
    """Identifier of the result."""
    versions: list[ResultVersionAnswer]
    """The first first."""


class AuditLine(_Answer):
    """One line of the audit trail."""

    sequence: int = Field(ge=1, examples=[42])
    """1, 2, 3 ... without a gap."""
    occurred_utc: str = Field(examples=["2026-11-22T12:00:00.000Z"])
    """When."""
    action: str = Field(examples=["result.viewed"])
    """What happened."""
    actor: str = Field(examples=["key:3f9c2a71"])
    """Who did it: a caller, `service`, or `command-line:<user>`."""
    subject: str = Field(examples=["0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"])
    """What it happened to."""
    details: dict[str, Any]
    """More; nothing that identifies a patient."""
    previous_hash: str = SHA256
    """Hash of the line before; 64 zeros before the first."""
    hash: str = SHA256
    """SHA-256 over this line's other members in canonical JSON, `details` as text."""
