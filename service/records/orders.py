"""Orders: what a laboratory asked for, placed and cancelled by its own numbers.

```
              a result is bound          all of them are reviewed
 open ──────────────► in-progress ──────────────────► completed
   ▲ all rejected         │   ▲   one more image, or an order's     │
   └──────────────────────┘   └──── result is opened again ◄────────┘
 open, in-progress ── cancel ──► cancelled
```
Kept are numbers alone: placer, filler, accession, specimen. Nothing else of a message is filed.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, insert, select, update

from service.errors import (
    AmbiguousOrderError,
    OrderConflictError,
    UnknownOrderError,
    UnusableOrderError,
)
from service.records.audit import Transaction, canonical_json, sha256_text
from service.records.cursors import cursor_of, sequence_of
from service.records.schema import OrderResultRow, OrderRow
from service.records.times import utc_now

OrderStatus = Literal["open", "in-progress", "completed", "cancelled"]
CHANGING_COLUMNS: Final = frozenset({"status", "changed_utc"})
"""What of an order changes; the digest in the trail covers the rest."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """One order of a message.

    Attributes:
        action: Whether it is placed or cancelled.
        placer_number: Number that its placer gave it; no two orders have the same.
        accession: Accession number of the case; a cancellation needs none.
        filler_number: Number that the laboratory system gave it.
        specimen_id: The specimen, where it has one and no more.
        location: Where it stands in its message, for whoever must mend it.
    """

    action: Literal["place", "cancel"]
    placer_number: str
    accession: str | None = None
    filler_number: str | None = None
    specimen_id: str | None = None
    location: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it is filed.

    Attributes:
        id: Identifier, ours.
        sequence: Number of its row in the audit trail; orders are listed in this order.
        created_utc: When it came.
        caller: Who sent it.
        placer_number: Number that its placer gave it.
        filler_number: Number that the laboratory system gave it.
        accession: Accession number of the case.
        specimen_id: The specimen.
        status: Where it stands.
        changed_utc: Since when.
    """

    id: str
    sequence: int
    created_utc: str
    caller: str
    placer_number: str
    filler_number: str | None
    accession: str
    specimen_id: str | None
    status: OrderStatus
    changed_utc: str


def order_digest(columns: dict[str, Any]) -> str:
    """Return the SHA-256 over what never changes in a row of `orders`."""
    fixed = {name: value for name, value in columns.items() if name not in CHANGING_COLUMNS}
    return sha256_text(canonical_json(fixed))


def place_order(transaction: Transaction, request: OrderRequest, *, actor: str) -> Order:
    """File an order; one that was filed before with the same numbers is returned as it stands.

    Raises:
        OrderConflictError: Its placer number belongs to an order with other numbers.
        UnusableOrderError: It has no accession number.
    """
    if request.accession is None:
        raise UnusableOrderError(
            "An order needs the accession number of its case.", location=request.location
        )
    known = _by_placer_number(transaction.connection, request.placer_number)
    if known is not None:
        numbers = (known.accession, known.filler_number, known.specimen_id)
        if numbers != (request.accession, request.filler_number, request.specimen_id):
            raise OrderConflictError(
                "Its placer number belongs to another order; cancel that one and place the new one"
                " under a number of its own.",
                location=request.location,
            )
        return known
    now = utc_now()
    columns: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "sequence": transaction.next_sequence,
        "created_utc": now,
        "caller": actor,
        "placer_number": request.placer_number,
        "filler_number": request.filler_number,
        "accession": request.accession,
        "specimen_id": request.specimen_id,
        "status": "open",
        "changed_utc": now,
    }
    transaction.connection.execute(insert(OrderRow), columns)
    # The numbers stay out of the trail, which is for ever; their digest does not tell them.
    transaction.audit(
        "order.created",
        actor=actor,
        subject=columns["id"],
        details={"record_sha256": order_digest(columns), "status": "open", "changed_utc": now},
    )
    return Order(**columns)


def cancel_order(transaction: Transaction, request: OrderRequest, *, actor: str) -> Order:
    """Cancel an order; results that it has stay. Twice is as good as once.

    Raises:
        UnusableOrderError: No order has this placer number.
        OrderConflictError: It is completed.
    """
    known = _by_placer_number(transaction.connection, request.placer_number)
    if known is None:
        raise UnusableOrderError(
            "No order has this placer number, so there is nothing to cancel.",
            location=request.location,
            code=204,
        )
    if known.status == "completed":
        raise OrderConflictError(
            "The order is completed: its results are reviewed; reject those instead.",
            location=request.location,
        )
    return set_status(transaction, known, "cancelled", actor=actor)


def set_status(transaction: Transaction, order: Order, status: OrderStatus, *, actor: str) -> Order:
    """Let an order stand so, with an audit row if it did not before."""
    if order.status == status:
        return order
    now = utc_now()
    transaction.connection.execute(
        update(OrderRow).where(OrderRow.id == order.id).values(status=status, changed_utc=now)
    )
    transaction.audit(
        "order.changed",
        actor=actor,
        subject=order.id,
        details={"before": order.status, "status": status, "changed_utc": now},
    )
    return get_order(transaction.connection, order.id)


def match_order(
    connection: Connection, accession: str, *, order_number: str | None, specimen_id: str | None
) -> Order | None:
    """Return the order that an image of a case answers, or None.

    Cancelled orders are none. Where a case has several, the order number and then the specimen
    decide, and an order that waits comes before one that is completed.

    Args:
        connection: To read with.
        accession: Accession number that came with the image.
        order_number: Placer or filler number that came with it; an order of another is none.
        specimen_id: Specimen that came with it.

    Raises:
        AmbiguousOrderError: Several orders remain; to guess would file under the wrong one.
    """
    query = (
        select(OrderRow.__table__)
        .where(OrderRow.accession == accession, OrderRow.status != "cancelled")
        .order_by(OrderRow.sequence)
    )
    found = [_order(row) for row in connection.execute(query)]
    if order_number is not None:
        found = [item for item in found if order_number in (item.placer_number, item.filler_number)]
    if specimen_id is not None:
        found = [item for item in found if item.specimen_id == specimen_id] or found
    found = [item for item in found if item.status != "completed"] or found
    if len(found) > 1:
        raise AmbiguousOrderError(
            "Several orders have this accession number; send order_id or specimen_id as well."
        )
    return found[0] if found else None


def get_order(connection: Connection, order_id: str) -> Order:
    """Return an order.

    Raises:
        UnknownOrderError: There is none of that id.
    """
    row = connection.execute(
        select(OrderRow.__table__).where(OrderRow.id == order_id)
    ).one_or_none()
    if row is None:
        raise UnknownOrderError("No order of that id is recorded.")
    return _order(row)


def results_of(connection: Connection, order_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of the results that answer each of some orders, the first bound first."""
    answered: dict[str, list[str]] = {order_id: [] for order_id in order_ids}
    rows = connection.execute(
        select(OrderResultRow.order_id, OrderResultRow.result_id)
        .where(OrderResultRow.order_id.in_(order_ids))
        .order_by(OrderResultRow.bound_utc, OrderResultRow.result_id)
    )
    for order_id, result_id in rows:
        answered[order_id].append(result_id)
    return answered


def list_orders(
    connection: Connection,
    *,
    accession: str | None,
    placer_number: str | None,
    status: OrderStatus | None,
    cursor: str | None,
    most: int,
) -> tuple[list[Order], str | None]:
    """Return a page of orders, the newest first, and the cursor of the next page.

    Args:
        connection: To read with.
        accession: Only orders of this case.
        placer_number: Only the order of this number.
        status: Only orders that stand so.
        cursor: From the page before; None begins.
        most: Orders on the page.

    Raises:
        InvalidParameterError: The cursor is none of ours.
    """
    query = select(OrderRow.__table__).order_by(OrderRow.sequence.desc()).limit(most + 1)
    for column, value in (
        (OrderRow.accession, accession),
        (OrderRow.placer_number, placer_number),
        (OrderRow.status, status),
    ):
        if value is not None:
            query = query.where(column == value)
    if cursor is not None:
        query = query.where(OrderRow.sequence < sequence_of(cursor))
    page = [_order(row) for row in connection.execute(query)]
    more = len(page) > most
    return page[:most], cursor_of(page[most - 1].sequence) if more else None


def _by_placer_number(connection: Connection, number: str) -> Order | None:
    row = connection.execute(
        select(OrderRow.__table__).where(OrderRow.placer_number == number)
    ).one_or_none()
    return None if row is None else _order(row)


def _order(row: Row[Any]) -> Order:
    return Order(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name
