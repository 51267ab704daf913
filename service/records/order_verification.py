"""Orders, their results and what is held, against what the audit trail says of them."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from service.records.audit import AuditEntry
from service.records.orders import order_digest
from service.records.schema import HeldResultRow, OrderResultRow, OrderRow


class TamperedError(Exception):
    """The first thing that is not as it was written; the message says what."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the trail says that an order is like."""

    record_sha256: str
    status: str
    changed_utc: str


@dataclass(slots=True)
class OrderTrail:
    """What the trail tells of orders, row by row.

    Attributes:
        orders: By id.
        bound: Order and time by result.
        held: Time by result.
    """

    orders: dict[str, _Expected] = field(default_factory=dict)
    bound: dict[str, tuple[str, str]] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)

    def remember(self, entry: AuditEntry, details: dict[str, Any]) -> None:
        """Take the next row."""
        subject = entry.subject
        match entry.action:
            case "order.created":
                self.orders[subject] = _Expected(
                    details["record_sha256"], details["status"], details["changed_utc"]
                )
            case "order.changed" if subject in self.orders:
                before = self.orders[subject]
                self.orders[subject] = _Expected(
                    before.record_sha256, details["status"], details["changed_utc"]
                )
            case "order.purged":
                self.orders.pop(subject, None)
            case "order.bound":
                self.bound[details["result"]] = (subject, details["bound_utc"])
            case "result.held":
                self.held[subject] = details["held_utc"]
            case "result.released":
                self.held.pop(subject, None)
            case "result.purged":
                self.held.pop(subject, None)
                self.bound.pop(subject, None)

    def check(self, connection: Connection) -> None:
        """Compare the tables with the trail, or raise TamperedError."""
        missing = dict(self.orders)
        for row in connection.execute(select(OrderRow.__table__).order_by(OrderRow.id)):
            self._check_order(row, missing)
        if missing:
            raise TamperedError(f"order {next(iter(missing))} was removed without a purge")
        bindings = connection.execute(select(OrderResultRow.__table__))
        bound = {row.result_id: (row.order_id, row.bound_utc) for row in bindings}
        _compare("the order of result", bound, self.bound)
        waiting = connection.execute(select(HeldResultRow.__table__))
        _compare("the hold of result", {row.result_id: row.held_utc for row in waiting}, self.held)

    def _check_order(self, row: Row[Any], missing: dict[str, _Expected]) -> None:
        columns = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name
        order_id = columns["id"]
        said = missing.pop(order_id, None)
        if said is None:
            raise TamperedError(f"order {order_id} was put in: the audit trail knows none")
        if order_digest(columns) != said.record_sha256:
            raise TamperedError(f"order {order_id} was altered")
        if (columns["status"], columns["changed_utc"]) != (said.status, said.changed_utc):
            raise TamperedError(f"the status of order {order_id} was altered")


def _compare(what: str, found: dict[str, Any], said: dict[str, Any]) -> None:
    for result_id in sorted(set(found) | set(said)):
        if found.get(result_id) != said.get(result_id):
            raise TamperedError(f"{what} {result_id} was altered, put in or removed")
