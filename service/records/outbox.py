"""The outbox: every state of a result that is to reach a destination, and how far it got.

```
 the transaction that files a result, or a review
        │ enqueue
        ▼            claim              finish: accepted
     pending ──► pending, in flight ──────────────────► delivered ─┐
        ▲  ▲           │      │  │                                  │
        │  └───────────┘      │  └─ finish: refused ──► dead        │ resend
        │   lease ran out,    └──── failed for too long ──┘ │       │
        │   or failed: later                                │       │
        └───────────────────────────────────────────────────┴───────┘
```
States of a result that waits for its order are `held` until `release` makes them pending.
A claim is a lease: if its process dies, the row is due again when the lease runs out. States of one
result go to one destination in order, so that no old count overwrites a corrected one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, Select, delete, exists, insert, select, update
from sqlalchemy.orm import aliased

from service.errors import DeliveryHeldError, DeliverySupersededError, UnknownDeliveryError
from service.records.audit import Transaction
from service.records.schema import DeliveryRow, DisabledDestinationRow, HeldResultRow
from service.records.times import utc_after, utc_now

DeliveryStatus = Literal["pending", "delivered", "dead", "held"]
_ACTOR: Final = "service"
_DISABLED: Final = "the destination answered 410 before and is disabled"
_LONGEST_OUTCOME: Final = 255


@dataclass(frozen=True, slots=True)
class Delivery:
    """One state of a result on its way to one destination.

    Attributes:
        id: The key by which a receiver knows a resend: 32 hexadecimal digits that follow from
            result, version and destination.
        sequence: Number of its first row in the audit trail; deliveries are listed in this order.
        result_id: Which result.
        version: Which state of it.
        destination: Name of the destination.
        status: `pending`, `delivered`, `dead`: given up until somebody resends it, or `held`: its
            result waits for an order.
        attempts: How often it was sent, or tried to.
        created_utc: When the state was filed.
        queued_utc: When it was queued, or queued again.
        next_utc: Not tried before this time; while in flight, the end of the lease.
        in_flight: Whether an attempt runs.
        outcome: What came of the last attempt.
    """

    id: str
    sequence: int
    result_id: str
    version: int
    destination: str
    status: DeliveryStatus
    attempts: int
    created_utc: str
    queued_utc: str
    next_utc: str
    in_flight: bool
    outcome: str | None


def delivery_id(result_id: str, version: int, destination: str) -> str:
    """Return the one id that a state of a result has at a destination."""
    return hashlib.sha256(f"{result_id}/{version}/{destination}".encode()).hexdigest()[:32]


def enqueue(transaction: Transaction, result_id: str, version: int) -> None:
    """Put a state of a result on its way to every destination, in the transaction that files it."""
    if not transaction.destinations:
        return
    disabled = set(transaction.connection.scalars(select(DisabledDestinationRow.name)))
    waits = select(HeldResultRow.result_id).where(HeldResultRow.result_id == result_id)
    held = transaction.connection.execute(waits).first() is not None
    for destination in transaction.destinations:
        key = delivery_id(result_id, version, destination)
        status: DeliveryStatus = "dead" if destination in disabled else "pending"
        if held:
            status = "held"
        sequence = _tell(
            transaction, "queued", result_id, delivery=key, destination=destination, version=version
        )
        now = utc_now()
        transaction.connection.execute(
            insert(DeliveryRow),
            {
                "id": key,
                "sequence": sequence,
                "result_id": result_id,
                "version": version,
                "destination": destination,
                "status": status,
                "attempts": 0,
                "created_utc": now,
                "queued_utc": now,
                "next_utc": now,
                "in_flight": False,
                "outcome": _DISABLED if status == "dead" else None,
            },
        )


def release(transaction: Transaction, result_id: str) -> None:
    """Put the held states of a result on their way, each with an audit row."""
    connection = transaction.connection
    disabled = set(connection.scalars(select(DisabledDestinationRow.name)))
    held = (
        select(DeliveryRow.__table__)
        .where(DeliveryRow.result_id == result_id, DeliveryRow.status == "held")
        .order_by(DeliveryRow.sequence)
    )
    for row in connection.execute(held).all():
        waiting = _delivery(row)
        now = utc_now()
        off = waiting.destination in disabled
        connection.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == waiting.id)
            .values(
                status="dead" if off else "pending",
                queued_utc=now,
                next_utc=now,
                outcome=_DISABLED if off else None,
            )
        )
        _tell_of(transaction, "released", waiting)


def _due(destination: str) -> Select[Any]:
    """Select what may be tried now: due, and no earlier state of the result still on its way."""
    earlier = aliased(DeliveryRow)
    return (
        select(DeliveryRow.__table__)
        .where(
            DeliveryRow.destination == destination,
            DeliveryRow.status == "pending",
            DeliveryRow.next_utc <= utc_now(),
            ~exists().where(
                earlier.result_id == DeliveryRow.result_id,
                earlier.destination == DeliveryRow.destination,
                earlier.version < DeliveryRow.version,
                earlier.status == "pending",
            ),
        )
        .order_by(DeliveryRow.next_utc, DeliveryRow.sequence)
    )


def is_due(connection: Connection, destination: str) -> bool:
    """Tell whether `claim` would find anything; for asking often without a write."""
    return connection.execute(_due(destination).limit(1)).first() is not None


def claim(
    transaction: Transaction, destination: str, *, most: int, lease_s: float
) -> list[Delivery]:
    """Take up to `most` due deliveries, each with an audit row; nobody else gets them meanwhile.

    Args:
        transaction: To write with.
        destination: Where to.
        most: How many.
        lease_s: Seconds after which they are due again, should this process die.
    """
    claimed = []
    for row in transaction.connection.execute(_due(destination).limit(most)).all():
        taken = _delivery(row)
        transaction.connection.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == taken.id)
            .values(attempts=taken.attempts + 1, next_utc=utc_after(lease_s), in_flight=True)
        )
        claimed.append(get_delivery(transaction.connection, taken.id))
        _tell_of(transaction, "attempted", claimed[-1])
    return claimed


def deliver(transaction: Transaction, attempt: Delivery, outcome: str) -> None:
    """File that the receiver has it, whoever tried meanwhile; its own word is in the trail.

    Args:
        transaction: To write with.
        attempt: As `claim` returned it.
        outcome: What the receiver said, without anything of the result.
    """
    _finish(transaction, attempt, "delivered", outcome, fenced=False)


def retry(transaction: Transaction, attempt: Delivery, outcome: str, *, after_s: float) -> None:
    """File that an attempt failed and is made again after `after_s` seconds."""
    _finish(transaction, attempt, "pending", outcome, after_s=after_s)


def give_up(transaction: Transaction, attempt: Delivery, outcome: str) -> None:
    """File that the delivery is dead: only a resend revives it."""
    _finish(transaction, attempt, "dead", outcome)


def disable(transaction: Transaction, attempt: Delivery, outcome: str) -> None:
    """Give up all that is on its way to a destination, and what is filed from now on.

    A resend to the destination, which only a person asks for, enables it again.
    """
    give_up(transaction, attempt, outcome)
    connection, name = transaction.connection, attempt.destination
    known = select(DisabledDestinationRow.name).where(DisabledDestinationRow.name == name)
    if connection.execute(known).first() is not None:
        return
    connection.execute(insert(DisabledDestinationRow), {"name": name, "disabled_utc": utc_now()})
    connection.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.destination == name,
            DeliveryRow.status == "pending",
            DeliveryRow.in_flight.is_(False),
        )
        .values(status="dead", outcome=_DISABLED)
    )
    transaction.audit(
        "destination.disabled", actor=_ACTOR, subject=name, details={"outcome": outcome}
    )


def resend(transaction: Transaction, key: str, *, actor: str) -> Delivery:
    """Put a delivery on its way again, whatever became of it, and enable its destination.

    One that is on its way is tried at once; one that is being tried is left alone.

    Args:
        transaction: To write with.
        key: Id of the delivery; it stays the same, so the receiver can tell that it has it.
        actor: Id of the caller.

    Raises:
        UnknownDeliveryError: There is none of that id.
        DeliveryHeldError: Its result waits for an order.
        DeliverySupersededError: A later state of the result was queued to the same destination.
    """
    connection = transaction.connection
    found = get_delivery(connection, key)
    if found.status == "held":
        raise DeliveryHeldError("The result waits for its order; it is delivered once that comes.")
    later = select(DeliveryRow.id).where(
        DeliveryRow.result_id == found.result_id,
        DeliveryRow.destination == found.destination,
        DeliveryRow.version > found.version,
    )
    if connection.execute(later).first() is not None:
        raise DeliverySupersededError(
            "The destination is sent a later version of this result; resend that one."
        )
    connection.execute(
        delete(DisabledDestinationRow).where(DisabledDestinationRow.name == found.destination)
    )
    _tell_of(transaction, "resent", found, actor=actor)
    if not found.in_flight:
        now = utc_now()
        connection.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == key)
            .values(status="pending", queued_utc=now, next_utc=now)
        )
    return get_delivery(connection, key)


def get_delivery(connection: Connection, key: str) -> Delivery:
    """Return a delivery.

    Raises:
        UnknownDeliveryError: There is none of that id.
    """
    row = connection.execute(
        select(DeliveryRow.__table__).where(DeliveryRow.id == key)
    ).one_or_none()
    if row is None:
        raise UnknownDeliveryError("No delivery of that id is recorded.")
    return _delivery(row)


def list_deliveries(
    connection: Connection,
    *,
    status: DeliveryStatus | None = None,
    result_id: str | None = None,
    destination: str | None = None,
    before: int | None = None,
    most: int,
) -> Sequence[Delivery]:
    """Return up to `most` deliveries, the newest first.

    Args:
        connection: To read with.
        status: Only these.
        result_id: Only those of this result.
        destination: Only those to this destination.
        before: Only those with a smaller sequence number.
        most: How many.
    """
    query = select(DeliveryRow.__table__).order_by(DeliveryRow.sequence.desc()).limit(most)
    columns = DeliveryRow.__table__.c
    wanted = {"status": status, "result_id": result_id, "destination": destination}
    for name, value in wanted.items():
        if value is not None:
            query = query.where(columns[name] == value)
    if before is not None:
        query = query.where(columns.sequence < before)
    return [_delivery(row) for row in connection.execute(query)]


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name


def _finish(
    transaction: Transaction,
    attempt: Delivery,
    status: DeliveryStatus,
    outcome: str,
    *,
    after_s: float = 0.0,
    fenced: bool = True,
) -> None:
    outcome = outcome[:_LONGEST_OUTCOME]
    action = {"delivered": "acknowledged", "pending": "failed"}.get(status, "dead")
    _tell_of(transaction, action, attempt, outcome=outcome)
    statement = update(DeliveryRow).where(DeliveryRow.id == attempt.id)
    if fenced:
        # After the lease another may have taken over; its outcome counts, not this late one.
        statement = statement.where(
            DeliveryRow.attempts == attempt.attempts, DeliveryRow.status == "pending"
        )
    transaction.connection.execute(
        statement.values(
            status=status, outcome=outcome, in_flight=False, next_utc=utc_after(after_s)
        )
    )


def _tell_of(
    transaction: Transaction, action: str, delivery: Delivery, *, actor: str = _ACTOR, **more: str
) -> None:
    _tell(
        transaction,
        action,
        delivery.result_id,
        actor=actor,
        delivery=delivery.id,
        destination=delivery.destination,
        version=delivery.version,
        attempt=delivery.attempts,
        **more,
    )


def _tell(
    transaction: Transaction, action: str, result_id: str, *, actor: str = _ACTOR, **details: Any
) -> int:
    return transaction.audit(f"delivery.{action}", actor=actor, subject=result_id, details=details)
