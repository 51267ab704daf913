"""Results: written once with their audit row, read by id or page by page."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson
from sqlalchemy import Connection, Row, insert, select

from service.errors import UnknownResultError
from service.records.audit import Transaction, canonical_json, sha256_text
from service.records.bindings import UNSETTLED, Settlement, settle
from service.records.outbox import enqueue
from service.records.schema import (
    HeldResultRow,
    OrderResultRow,
    OrderRow,
    ResultImageRow,
    ResultRow,
    ResultVersionRow,
)

Status = Literal["preliminary", "final", "corrected", "cancelled"]
PRELIMINARY: Final[Status] = "preliminary"
SERVICE: Final = "service"
"""Who acts where no caller does."""

# What a review changes is not part of the record that the digest covers; versions have their own.
_CHANGING = {"status", "version"}

# Made once: building a statement takes longer than SQLite takes to execute it.
_ADD_RESULT: Final = insert(ResultRow)
_ADD_VERSION: Final = insert(ResultVersionRow)


@dataclass(frozen=True, slots=True)
class NewResult:
    """What is recorded of one segmentation.

    Attributes:
        id: Identifier of the result.
        created_utc: When it was made.
        caller: Who asked.
        accession: Identifier of the case, if given.
        specimen_id: Identifier of the specimen, if given.
        order_id: Identifier of the order, if given.
        input_sha256: Of the file as sent.
        pixel_sha256: Of the decoded pixels, RGB, row by row.
        model_name: Name of the model.
        model_version: Its version.
        model_digest: SHA-256 of its file.
        count: Nuclei.
        software: Versions by name.
        document: The JSON answer without nuclei and mask.
        image: The file as sent, where images are kept.
        labels_png: The labels as 16-bit PNG, where images are kept.
        settlement: Which order it answers, and what becomes of it if there is none.
    """

    id: str
    created_utc: str
    caller: str
    accession: str | None
    specimen_id: str | None
    order_id: str | None
    input_sha256: str
    pixel_sha256: str
    model_name: str
    model_version: str
    model_digest: str
    count: int
    software: Mapping[str, str]
    document: Mapping[str, Any]
    image: bytes | None = None
    labels_png: bytes | None = None
    settlement: Settlement = UNSETTLED


@dataclass(frozen=True, slots=True)
class ResultVersion:
    """One state of a result.

    Attributes:
        version: 1 as the model made it, 2, 3 ... as reviewers left it.
        created_utc: Since when.
        actor: Id of the caller who brought it about.
        status: Where the result stands.
        count: Nuclei.
        decision: `accept`, `edit` or `reject`; None for version 1.
        reviewer: The person, as the caller names them.
        reason: Why.
        labels_png: Labels that the reviewer drew, as 16-bit PNG.
    """

    version: int
    created_utc: str
    actor: str
    status: str
    count: int
    decision: str | None = None
    reviewer: str | None = None
    reason: str | None = None
    labels_png: bytes | None = None

    @property
    def labels_sha256(self) -> str | None:
        """SHA-256 of the drawn labels, or None."""
        return bytes_digest(self.labels_png)


@dataclass(frozen=True, slots=True)
class BoundOrder:
    """The order that a result answers.

    Attributes:
        id: Identifier of the order.
        placer_number: Number that its placer gave it.
        filler_number: Number that the laboratory system gave it.
        specimen_id: Its specimen, where it has one.
        bound_utc: Since when the result answers it.
    """

    id: str
    placer_number: str
    filler_number: str | None
    specimen_id: str | None
    bound_utc: str


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """A result as it is filed, with the numbers of the order that it answers.

    Attributes:
        id: Identifier of the result.
        sequence: Number of its row in the audit trail; results are listed in this order.
        caller: Who asked for it.
        accession: Identifier of the case.
        specimen_id: Identifier of the specimen: the caller's, else the order's.
        order_id: Number of the order: the caller's, else the order's placer number.
        pixel_sha256: Of the decoded pixels.
        software: Versions by name.
        document: The JSON answer as it was sent, without nuclei and mask.
        current: Its present state.
        order: The order that it answers.
        held_utc: Since when it waits for its order and is not delivered; None where it does not.
    """

    id: str
    sequence: int
    caller: str
    accession: str | None
    specimen_id: str | None
    order_id: str | None
    pixel_sha256: str
    software: dict[str, str]
    document: dict[str, Any]
    current: ResultVersion
    order: BoundOrder | None = None
    held_utc: str | None = None


def record_digest(columns: Mapping[str, Any]) -> str:
    """Return the SHA-256 over what never changes in a row of `results`."""
    return sha256_text(canonical_json({k: v for k, v in columns.items() if k not in _CHANGING}))


def version_digest(columns: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a row of `result_versions`, drawn labels by their own digest."""
    values = dict(columns)
    values["labels_png"] = bytes_digest(values["labels_png"])
    return sha256_text(canonical_json(values))


def bytes_digest(data: bytes | None) -> str | None:
    """Return the SHA-256 of bytes, or None."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def add_version(transaction: Transaction, result_id: str, version: ResultVersion) -> str:
    """Insert a row of `result_versions` and return its digest, for the audit row."""
    columns = {"result_id": result_id} | {
        name: getattr(version, name) for name in ResultVersion.__slots__
    }
    transaction.connection.execute(_ADD_VERSION, columns)
    return version_digest(columns)


def add_result(transaction: Transaction, result: NewResult) -> int:
    """File a result with its first version and its audit row; return the row's sequence number."""
    columns: dict[str, Any] = {
        "id": result.id,
        "sequence": transaction.next_sequence,
        "created_utc": result.created_utc,
        "caller": result.caller,
        "accession": result.accession,
        "specimen_id": result.specimen_id,
        "order_id": result.order_id,
        "input_sha256": result.input_sha256,
        "pixel_sha256": result.pixel_sha256,
        "model_name": result.model_name,
        "model_version": result.model_version,
        "model_digest": result.model_digest,
        "software": canonical_json(dict(result.software)),
        "document": canonical_json(dict(result.document)),
        "status": PRELIMINARY,
        "version": 1,
    }
    transaction.connection.execute(_ADD_RESULT, columns)
    first = ResultVersion(
        version=1,
        created_utc=result.created_utc,
        actor=result.caller,
        status=PRELIMINARY,
        count=result.count,
    )
    details = {
        "record_sha256": record_digest(columns),
        "version": 1,
        "version_sha256": add_version(transaction, result.id, first),
        "status": PRELIMINARY,
        "labels_sha256": bytes_digest(result.labels_png),
    }
    if result.image is not None and result.labels_png is not None:
        transaction.connection.execute(
            insert(ResultImageRow),
            {"result_id": result.id, "image": result.image, "labels_png": result.labels_png},
        )
    sequence = transaction.audit(
        "result.created", actor=result.caller, subject=result.id, details=details
    )
    settle(transaction, result.id, result.accession, result.settlement, actor=result.caller)
    enqueue(transaction, result.id, first.version)
    return sequence


JOINED = (
    select(
        ResultRow.__table__,
        ResultVersionRow.__table__,
        OrderRow.__table__,
        OrderResultRow.bound_utc,
        HeldResultRow.held_utc,
    )
    .join_from(
        ResultRow,
        ResultVersionRow,
        (ResultVersionRow.result_id == ResultRow.id)
        & (ResultVersionRow.version == ResultRow.version),
    )
    .outerjoin(OrderResultRow, OrderResultRow.result_id == ResultRow.id)
    .outerjoin(OrderRow, OrderRow.id == OrderResultRow.order_id)
    .outerjoin(HeldResultRow, HeldResultRow.result_id == ResultRow.id)
)
"""Each result with its present version, its order, and whether it is held."""


def _version(row: Row[Any]) -> ResultVersion:
    table = ResultVersionRow.__table__
    values = row._mapping  # noqa: SLF001  SQLAlchemy's public name
    return ResultVersion(**{name: values[table.c[name]] for name in ResultVersion.__slots__})


def _bound_order(row: Row[Any]) -> BoundOrder | None:
    columns = OrderRow.__table__.c
    values = row._mapping  # noqa: SLF001  SQLAlchemy's public name
    if values[columns.id] is None:
        return None
    return BoundOrder(
        id=values[columns.id],
        placer_number=values[columns.placer_number],
        filler_number=values[columns.filler_number],
        specimen_id=values[columns.specimen_id],
        bound_utc=values["bound_utc"],
    )


def recorded(row: Row[Any]) -> RecordedResult:
    """Return a row of `JOINED`."""
    columns = ResultRow.__table__.c
    values = row._mapping  # noqa: SLF001  SQLAlchemy's public name
    order = _bound_order(row)
    ordered = (order.specimen_id, order.placer_number) if order is not None else (None, None)
    return RecordedResult(
        id=values[columns.id],
        sequence=values[columns.sequence],
        caller=values[columns.caller],
        accession=values[columns.accession],
        specimen_id=values[columns.specimen_id] or ordered[0],
        order_id=values[columns.order_id] or ordered[1],
        pixel_sha256=values[columns.pixel_sha256],
        software=orjson.loads(values[columns.software]),
        document=orjson.loads(values[columns.document]),
        current=_version(row),
        order=order,
        held_utc=values["held_utc"],
    )


def get_result(connection: Connection, result_id: str) -> RecordedResult:
    """Return a result.

    Raises:
        UnknownResultError: There is none of that id.
    """
    row = connection.execute(JOINED.where(ResultRow.id == result_id)).one_or_none()
    if row is None:
        raise UnknownResultError("No result of that id is recorded.")
    return recorded(row)


def get_versions(connection: Connection, result_id: str) -> list[ResultVersion]:
    """Return all states of a result, the first first.

    Raises:
        UnknownResultError: There is no result of that id.
    """
    rows = connection.execute(
        select(ResultVersionRow.__table__)
        .where(ResultVersionRow.result_id == result_id)
        .order_by(ResultVersionRow.version)
    ).all()
    if not rows:
        raise UnknownResultError("No result of that id is recorded.")
    return [_version(row) for row in rows]


def standing_version(versions: Sequence[ResultVersion], number: int) -> ResultVersion:
    """Return a state of a result with the labels that hold in it: the last that were drawn.

    Args:
        versions: All states, the first first.
        number: Which one, from 1.
    """
    drawn = (item.labels_png for item in reversed(versions[:number]) if item.labels_png is not None)
    return replace(versions[number - 1], labels_png=next(drawn, None))
