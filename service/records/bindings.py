"""Which result answers which order, and which results wait for one.

Filing a result and filing an order are write transactions, of which one runs at a time: whichever
comes second sees the first. So a result and its order that come at the same moment are bound once,
and a held result is released once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from service.errors import AmbiguousOrderError
from service.records.audit import Transaction
from service.records.orders import (
    Order,
    OrderRequest,
    OrderStatus,
    cancel_order,
    get_order,
    match_order,
    place_order,
    set_status,
)
from service.records.outbox import release
from service.records.schema import HeldResultRow, OrderResultRow, OrderRow, ResultRow
from service.records.times import utc_now

_REVIEWED = frozenset({"final", "corrected"})


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a new result is brought together with an order.

    Attributes:
        order_id: Id of the order that it names already.
        hold_unknown: Whether a result with an accession number of no order is held.
    """

    order_id: str | None = None
    hold_unknown: bool = False


UNSETTLED = Settlement()
"""Bound to the order that its accession number finds, never held."""


def settle(
    transaction: Transaction,
    result_id: str,
    accession: str | None,
    settlement: Settlement,
    *,
    actor: str,
) -> None:
    """Bind a result that is being filed to its order, or hold it; before its delivery is queued.

    Args:
        transaction: The one that files it.
        result_id: The result.
        accession: Its accession number; without one nothing is done.
        settlement: Which order, and what if there is none.
        actor: Id of the caller.
    """
    if accession is None:
        return
    connection = transaction.connection
    order = None
    if settlement.order_id is not None:
        named = select(OrderRow.id).where(OrderRow.id == settlement.order_id)
        if connection.execute(named).first() is not None:
            # The document says so and is signed, so it stays so if it was cancelled just now.
            order = get_order(connection, settlement.order_id)
    if order is None:
        order = _order_of(connection, result_id)
    if order is not None:
        _bind(transaction, order, result_id, actor=actor)
    elif settlement.hold_unknown:
        now = utc_now()
        connection.execute(insert(HeldResultRow), {"result_id": result_id, "held_utc": now})
        transaction.audit("result.held", actor=actor, subject=result_id, details={"held_utc": now})


def file_orders(
    transaction: Transaction, requests: Iterable[OrderRequest], *, actor: str
) -> list[Order]:
    """Place and cancel the orders of one message, all or none, and release what waited for them.

    Args:
        transaction: To write with.
        requests: The orders of the message.
        actor: Id of the caller.

    Returns:
        The orders as they stand now.

    Raises:
        UnusableOrderError: One cannot be placed or cancelled.
    """
    steps = {"place": place_order, "cancel": cancel_order}
    filed = [steps[request.action](transaction, request, actor=actor) for request in requests]
    for accession in sorted({order.accession for order in filed}):
        _release_held(transaction, accession, actor=actor)
    return [get_order(transaction.connection, order.id) for order in filed]


def follow_result(transaction: Transaction, result_id: str, *, actor: str) -> None:
    """Let the order of a result stand as its results do now."""
    order_id = transaction.connection.scalar(
        select(OrderResultRow.order_id).where(OrderResultRow.result_id == result_id)
    )
    if order_id is None:
        return
    order = get_order(transaction.connection, order_id)
    if order.status != "cancelled":
        status = _status_by_results(transaction.connection, order_id)
        set_status(transaction, order, status, actor=actor)


def _order_of(connection: Connection, result_id: str) -> Order | None:
    """Return the one order that a filed result answers by its own numbers."""
    accession, order_number, specimen_id = connection.execute(
        select(ResultRow.accession, ResultRow.order_id, ResultRow.specimen_id).where(
            ResultRow.id == result_id
        )
    ).one()
    if accession is None:
        return None
    try:
        return match_order(
            connection, accession, order_number=order_number, specimen_id=specimen_id
        )
    except AmbiguousOrderError:
        # Nobody can be asked any more.
        return None


def _bind(transaction: Transaction, order: Order, result_id: str, *, actor: str) -> None:
    now = utc_now()
    transaction.connection.execute(
        insert(OrderResultRow), {"result_id": result_id, "order_id": order.id, "bound_utc": now}
    )
    transaction.audit(
        "order.bound",
        actor=actor,
        subject=order.id,
        details={"result": result_id, "bound_utc": now},
    )
    follow_result(transaction, result_id, actor=actor)


def _release_held(transaction: Transaction, accession: str, *, actor: str) -> None:
    """Bind and release every held result of a case that one order is the answer to now."""
    connection = transaction.connection
    held = connection.scalars(
        select(HeldResultRow.result_id)
        .join(ResultRow)
        .where(ResultRow.accession == accession)
        .order_by(ResultRow.sequence)
    ).all()
    for result_id in held:
        order = _order_of(connection, result_id)
        if order is None:
            continue
        connection.execute(delete(HeldResultRow).where(HeldResultRow.result_id == result_id))
        transaction.audit(
            "result.released", actor=actor, subject=result_id, details={"order": order.id}
        )
        _bind(transaction, order, result_id, actor=actor)
        release(transaction, result_id)


def _status_by_results(connection: Connection, order_id: str) -> OrderStatus:
    statuses = connection.scalars(
        select(ResultRow.status)
        .join(OrderResultRow, OrderResultRow.result_id == ResultRow.id)
        .where(OrderResultRow.order_id == order_id)
    ).all()
    # A rejected result answers nothing: the order waits for another image.
    standing = [status for status in statuses if status != "cancelled"]
    if not standing:
        return "open"
    return "completed" if _REVIEWED.issuperset(standing) else "in-progress"
