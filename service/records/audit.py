"""The audit trail: rows chained by SHA-256, so that no row can be changed, lost or moved unseen.

```
 hash(n) = SHA-256( canonical JSON of { sequence n, time, action, actor, subject, details,
                                        previous_hash = hash(n-1) } )          hash(0) = 64 zeros
```
Canonical JSON has sorted keys, no white space and UTF-8 (the parts of RFC 8785 that our values,
which are texts, integers and nested objects of these, make use of).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, bindparam, insert, select, update

from service.records.schema import AuditHeadRow, AuditRow
from service.records.times import utc_now

FIRST_HASH: Final = "0" * 64
HEAD_ID: Final = 1

# Made once: building a statement takes longer than SQLite takes to execute it.
_READ_HEAD: Final = select(AuditHeadRow.sequence, AuditHeadRow.hash).where(
    AuditHeadRow.id == HEAD_ID
)
_APPEND: Final = insert(AuditRow)
_MOVE_HEAD: Final = (
    update(AuditHeadRow)
    .where(AuditHeadRow.id == HEAD_ID)
    .values(sequence=bindparam("to"), hash=bindparam("sealed"))
)


def canonical_json(value: Any) -> str:
    """Write a value in the one form that is hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the trail.

    Attributes:
        sequence: 1, 2, 3 ... without a gap.
        occurred_utc: When.
        action: What happened, such as `result.created`.
        actor: Who did it: the id of a caller, `service`, or `command-line:<user>`.
        subject: What it happened to: the id of a result, a model, a key.
        details: Canonical JSON of an object.
        previous_hash: Hash of the row before.
        hash: Of this row.
    """

    sequence: int
    occurred_utc: str
    action: str
    actor: str
    subject: str
    details: str
    previous_hash: str
    hash: str

    def computed_hash(self) -> str:
        """Return what `hash` must be."""
        return sha256_text(
            canonical_json(
                {
                    "sequence": self.sequence,
                    "occurred_utc": self.occurred_utc,
                    "action": self.action,
                    "actor": self.actor,
                    "subject": self.subject,
                    "details": self.details,
                    "previous_hash": self.previous_hash,
                }
            )
        )

    def to_json(self) -> bytes:
        """Return one line of the export, `details` as an object."""
        document = {name: getattr(self, name) for name in self.__slots__}
        document["details"] = orjson.loads(self.details)
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class Transaction:
    """A write transaction, alone in the database until it ends, that can append to the trail.

    Attributes:
        connection: For statements of its own.
        destinations: Where each new state of a result is to be delivered.
    """

    def __init__(self, connection: Connection, destinations: Sequence[str] = ()) -> None:
        """Read the head of the chain; the caller holds the lock that keeps other writers out."""
        self.connection = connection
        self.destinations = tuple(destinations)
        sequence, head = connection.execute(_READ_HEAD).one()
        self._written = self._sequence = int(sequence)
        self._hash = str(head)

    @property
    def next_sequence(self) -> int:
        """The sequence number that the next row will have."""
        return self._sequence + 1

    def audit(self, action: str, *, actor: str, subject: str, details: Mapping[str, Any]) -> int:
        """Append a row.

        Args:
            action: What happened.
            actor: Who did it.
            subject: What it happened to.
            details: More, without anything that could identify a patient: rows are never deleted.

        Returns:
            The sequence number of the row.
        """
        unsealed = AuditEntry(
            sequence=self.next_sequence,
            occurred_utc=utc_now(),
            action=action,
            actor=actor,
            subject=subject,
            details=canonical_json(dict(details)),
            previous_hash=self._hash,
            hash="",
        )
        values = {name: getattr(unsealed, name) for name in AuditEntry.__slots__}
        values["hash"] = unsealed.computed_hash()
        self.connection.execute(_APPEND, values)
        self._sequence, self._hash = unsealed.sequence, values["hash"]
        return unsealed.sequence

    def finish(self) -> None:
        """Move the head to the last row; the database calls it before the commit."""
        if self._sequence > self._written:
            self.connection.execute(_MOVE_HEAD, {"to": self._sequence, "sealed": self._hash})
            self._written = self._sequence


def read_entries(connection: Connection, after: int, most: int) -> list[AuditEntry]:
    """Return up to `most` rows whose sequence numbers are greater than `after`, in order."""
    rows = connection.execute(
        select(AuditRow.__table__)
        .where(AuditRow.sequence > after)
        .order_by(AuditRow.sequence)
        .limit(most)
    )
    return [AuditEntry(**row._mapping) for row in rows]  # noqa: SLF001  SQLAlchemy's public name
