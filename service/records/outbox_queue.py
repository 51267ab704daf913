"""How much of the outbox waits, for whoever watches it."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, exists, func, select
from sqlalchemy.orm import aliased

from service.records.outbox import DeliveryStatus
from service.records.schema import DeliveryRow

AttemptOutcome = Literal["delivered", "failed", "dead"]
"""What came of an attempt: it arrived, is made again, or was given up."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """What has not reached one destination.

    Attributes:
        pending: Deliveries on their way or waiting for another attempt.
        dead: Deliveries given up, of results of which no later version was queued.
        oldest_queued_utc: When the oldest pending one was queued, or queued again; None without.
    """

    pending: int
    dead: int
    oldest_queued_utc: str | None


def queue_state(connection: Connection, destination: str) -> QueueState:
    """Count what has not reached a destination; by index, however much was delivered."""
    later = aliased(DeliveryRow)
    replaced = exists().where(
        later.result_id == DeliveryRow.result_id,
        later.destination == DeliveryRow.destination,
        later.version > DeliveryRow.version,
    )

    def count(status: DeliveryStatus, *more: ColumnElement[bool]) -> tuple[int, str | None]:
        number, oldest = connection.execute(
            select(func.count(), func.min(DeliveryRow.queued_utc)).where(
                DeliveryRow.destination == destination, DeliveryRow.status == status, *more
            )
        ).one()
        return number, oldest

    pending, oldest = count("pending")
    # What was replaced cannot be resent: it would be an alarm that nobody can end.
    dead, _ = count("dead", ~replaced)
    return QueueState(pending, dead, oldest)
