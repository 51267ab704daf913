"""Deliveries against what the audit trail says of them: none taken out, put in or called done.

When one is tried next, how often it was and what came of it are how the outbox works, and not
checked; the trail has a row for each attempt.
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from service.records.audit import AuditEntry
from service.records.order_verification import TamperedError
from service.records.schema import DeliveryRow


@dataclass(slots=True)
class _Expected:
    """What the trail says that a delivery is like."""

    sequence: int
    result_id: str
    version: int
    destination: str
    acknowledged: bool = False


@dataclass(slots=True)
class DeliveryTrail:
    """What the trail tells of deliveries, row by row.

    Attributes:
        deliveries: By id.
        of_result: Ids by result.
    """

    deliveries: dict[str, _Expected] = field(default_factory=dict)
    of_result: dict[str, list[str]] = field(default_factory=dict)

    def remember(self, entry: AuditEntry, details: dict[str, Any]) -> None:
        """Take the next row."""
        if entry.action == "delivery.queued":
            self.deliveries[details["delivery"]] = _Expected(
                entry.sequence, entry.subject, details["version"], details["destination"]
            )
            self.of_result.setdefault(entry.subject, []).append(details["delivery"])
        elif entry.action in ("delivery.acknowledged", "delivery.resent"):
            # An attempt that ends after the purge of its result is told of, too.
            if (known := self.deliveries.get(details["delivery"])) is not None:
                known.acknowledged = entry.action == "delivery.acknowledged"
        elif entry.action == "result.purged":
            for delivery in self.of_result.pop(entry.subject, ()):
                del self.deliveries[delivery]

    def check(self, connection: Connection) -> None:
        """Compare the table with the trail, or raise TamperedError."""
        missing = dict(self.deliveries)
        columns = DeliveryRow.__table__.c
        fixed = (columns.sequence, columns.result_id, columns.version, columns.destination)
        query = select(columns.id, columns.status, *fixed)
        with connection.execute(query, execution_options={"yield_per": 1000}) as rows:
            for delivery, status, *found in rows:
                _check(delivery, status, found, missing.pop(delivery, None))
        if missing:
            raise TamperedError(f"delivery {next(iter(missing))} was removed without a purge")


def _check(delivery: str, status: str, found: list[Any], said: _Expected | None) -> None:
    if said is None:
        raise TamperedError(f"delivery {delivery} was put in: the audit trail knows none")
    if found != [said.sequence, said.result_id, said.version, said.destination]:
        raise TamperedError(f"delivery {delivery} was altered")
    if status == "delivered" and not said.acknowledged:
        raise TamperedError(f"delivery {delivery} was called delivered and never was")
