"""Checking the audit trail, and the results against it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, select

from service.records.audit import FIRST_HASH, HEAD_ID, AuditEntry, read_entries
from service.records.delivery_verification import DeliveryTrail
from service.records.key_verification import KeyTrail
from service.records.order_verification import OrderTrail, TamperedError
from service.records.results import bytes_digest, record_digest, version_digest
from service.records.schema import (
    AuditHeadRow,
    ResultImageRow,
    ResultRow,
    ResultVersionRow,
)

_ROWS_AT_ONCE = 1000
_IMAGES_AT_ONCE = 4
"""So many rows with images in them are held at once; a driver would fetch all of them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a whole verification found.

    Attributes:
        rows: Rows of the trail that are sound.
        results: Results that are as they were filed.
        head: `sequence:hash` of the last row; kept elsewhere, it proves later that none was lost.
        problem: The first fault, or None.
    """

    rows: int
    results: int
    head: str
    problem: str | None


@dataclass(slots=True)
class _Expected:
    """What the trail says that a result is like."""

    record_sha256: str
    status: str
    labels_sha256: str | None
    version_sha256: list[str] = field(default_factory=list)


class _Chain:
    """Follows the trail row by row."""

    def __init__(self, anchor: tuple[int, str] | None) -> None:
        self.sequence = 0
        self.hash = FIRST_HASH
        self.results: dict[str, _Expected] = {}
        self.orders = OrderTrail()
        self.keys = KeyTrail()
        self.deliveries = DeliveryTrail()
        self._anchor = anchor

    def follow(self, entry: AuditEntry) -> None:
        """Take the next row, or raise TamperedError."""
        expected = self.sequence + 1
        if entry.sequence != expected:
            raise TamperedError(
                f"row {expected} of the audit trail is missing (row {entry.sequence} follows"
                f" {self.sequence})"
            )
        if entry.previous_hash != self.hash:
            raise TamperedError(f"row {expected} of the audit trail does not follow the one before")
        if entry.computed_hash() != entry.hash:
            raise TamperedError(f"row {expected} of the audit trail was altered")
        self.sequence, self.hash = entry.sequence, entry.hash
        if self._anchor is not None and self.sequence == self._anchor[0]:
            self._check_anchor()
        self._remember(entry)

    def end(self) -> None:
        """Check that the trail reached the anchor."""
        if self._anchor is not None and self.sequence < self._anchor[0]:
            raise TamperedError(
                f"the audit trail ends at row {self.sequence}, before the anchored row"
                f" {self._anchor[0]}: its last rows were removed"
            )

    def _check_anchor(self) -> None:
        if self._anchor is not None and self.hash != self._anchor[1]:
            raise TamperedError(
                f"row {self.sequence} of the audit trail is not the one that was anchored: the"
                " trail was written anew"
            )

    def _remember(self, entry: AuditEntry) -> None:
        details = orjson.loads(entry.details)
        self.orders.remember(entry, details)
        self.keys.remember(entry, details)
        self.deliveries.remember(entry, details)
        if entry.action == "result.purged":
            self.results.pop(entry.subject, None)
            return
        if entry.action == "result.created":
            self.results[entry.subject] = _Expected(
                details["record_sha256"],
                details["status"],
                details["labels_sha256"],
                [details["version_sha256"]],
            )
        elif entry.action == "result.reviewed" and entry.subject in self.results:
            expected = self.results[entry.subject]
            expected.version_sha256.append(details["version_sha256"])
            expected.status = details["status"]
        elif entry.action == "image.purged" and entry.subject in self.results:
            self.results[entry.subject].labels_sha256 = None


def parse_anchor(text: str) -> tuple[int, str]:
    """Read `sequence:hash`, as `Verdict.head` writes it.

    Raises:
        ValueError: It is not of that form.
    """
    sequence, _, digest = text.strip().partition(":")
    if not sequence.isdecimal() or len(digest) != 64:
        raise ValueError("an anchor is <sequence>:<64 hexadecimal digits>")
    return int(sequence), digest


def verify(connection: Connection, anchor: tuple[int, str] | None = None) -> Verdict:
    """Check every row of the trail, and every result against it.

    Args:
        connection: In a transaction that sees one state of the database.
        anchor: Sequence number and hash of a row that was the head once, kept outside the
            database. Without one, somebody who removes the last rows *and* sets the head back is
            not found out, nor somebody who writes the whole chain anew.

    Returns:
        What was found; it stops at the first fault.
    """
    chain = _Chain(anchor)
    results = 0
    problem = None
    try:
        for entry in _entries(connection):
            chain.follow(entry)
        chain.end()
        _check_head(connection, chain)
        for _ in _sound_results(connection, chain.results):
            results += 1
        chain.orders.check(connection)
        chain.keys.check(connection)
        chain.deliveries.check(connection)
    except TamperedError as error:
        problem = str(error)
    except (TypeError, ValueError, KeyError):
        # SQLite takes any kind of value in any column; JSON details may lack a member.
        problem = f"after row {chain.sequence}: a value of a kind that this program never writes"
    return Verdict(chain.sequence, results, f"{chain.sequence}:{chain.hash}", problem)


def verify_export(lines: Iterable[bytes], anchor: tuple[int, str] | None = None) -> Verdict:
    """Check an export (`GET /audit`) that begins with row 1; results are not looked at.

    Raises:
        ValueError: A line is no row of an export.
    """
    chain = _Chain(anchor)
    problem = None
    try:
        for line in lines:
            chain.follow(_parse_line(line))
        chain.end()
    except TamperedError as error:
        problem = str(error)
    except (TypeError, KeyError, AttributeError):
        problem = f"after row {chain.sequence}: a value of a kind that this program never writes"
    return Verdict(chain.sequence, 0, f"{chain.sequence}:{chain.hash}", problem)


def _parse_line(line: bytes) -> AuditEntry:
    try:
        document = orjson.loads(line)
        details = orjson.dumps(document["details"], option=orjson.OPT_SORT_KEYS).decode()
        return AuditEntry(**{**document, "details": details})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("a line of the file is no row of an export") from error


def _entries(connection: Connection) -> Iterator[AuditEntry]:
    # Also rows numbered below 1, which nothing but an attack writes.
    after = -(2**62)
    while page := read_entries(connection, after, _ROWS_AT_ONCE):
        yield from page
        after = page[-1].sequence


def _check_head(connection: Connection, chain: _Chain) -> None:
    heads = connection.execute(select(AuditHeadRow.__table__)).all()
    if len(heads) != 1 or heads[0].id != HEAD_ID:
        raise TamperedError("the audit trail has not the one head that it must have")
    sequence, digest = heads[0].sequence, heads[0].hash
    if sequence > chain.sequence:
        raise TamperedError(
            f"row {chain.sequence + 1} of the audit trail is missing: it ended at row {sequence}"
        )
    if (sequence, digest) != (chain.sequence, chain.hash):
        raise TamperedError("the head of the audit trail is not its last row")


def _sound_results(connection: Connection, expected: dict[str, _Expected]) -> Iterator[str]:
    """Yield the id of each result that is as the trail says."""
    missing = dict(expected)
    versions = _versions(connection)
    labels = _labels(connection)
    for row in connection.execute(select(ResultRow.__table__).order_by(ResultRow.id)):
        columns = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name
        result_id = columns["id"]
        if result_id not in missing:
            raise TamperedError(f"result {result_id} was put in: the audit trail knows none")
        said = missing.pop(result_id)
        if record_digest(columns) != said.record_sha256:
            raise TamperedError(f"result {result_id} was altered")
        if (columns["status"], columns["version"]) != (said.status, len(said.version_sha256)):
            raise TamperedError(f"the status or version of result {result_id} was altered")
        if versions.pop(result_id, []) != said.version_sha256:
            raise TamperedError(f"a version of result {result_id} was altered, added or removed")
        kept = labels.pop(result_id, None)
        image_said = said.labels_sha256 and (columns["input_sha256"], said.labels_sha256)
        if kept != image_said:
            raise TamperedError(f"the kept image of result {result_id} was altered or removed")
        yield result_id
    if missing:
        raise TamperedError(f"result {next(iter(missing))} was removed without a purge")
    for what, orphans in (("version", versions), ("kept image", labels)):
        if orphans:
            raise TamperedError(f"a {what} of the unknown result {next(iter(orphans))} was put in")


def _versions(connection: Connection) -> dict[str, list[str]]:
    digests: dict[str, list[str]] = {}
    order = (ResultVersionRow.result_id, ResultVersionRow.version)
    query = select(ResultVersionRow.__table__).order_by(*order)
    with connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}) as rows:
        for row in rows:
            columns: dict[str, Any] = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name
            digests.setdefault(columns["result_id"], []).append(version_digest(columns))
    return digests


def _labels(connection: Connection) -> dict[str, tuple[str | None, str | None]]:
    query = select(ResultImageRow.__table__)
    with connection.execute(query, execution_options={"yield_per": _IMAGES_AT_ONCE}) as rows:
        return {
            result_id: (bytes_digest(image), bytes_digest(labels_png))
            for result_id, image, labels_png in rows
        }
