"""Tampering: whatever is changed, put in or taken out, `verify` finds it."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from service.records.audit import FIRST_HASH, AuditEntry, Transaction, read_entries
from service.records.bindings import Settlement, file_orders
from service.records.database import Database
from service.records.keys import create_key, list_keys, revoke_key, rotate_key
from service.records.orders import OrderRequest
from service.records.results import NewResult, ResultVersion, add_result, add_version
from service.records.schema import Base
from service.records.verification import parse_anchor, verify, verify_export

CHECKED = (
    "audit", "audit_head", "results", "result_versions", "result_images", "orders",
    "order_results", "held_results", "api_keys",
)  # fmt: skip
COLUMNS = [
    (table, column.name) for table in CHECKED for column in Base.metadata.tables[table].columns
]


def fill(database: Database, new_result: Callable[..., NewResult]) -> None:
    """Four results, one with an image, one reviewed; then two held, one until its order."""
    with database.writing() as transaction:
        for number in range(4):
            image = b"image" if number == 2 else None
            digest = hashlib.sha256(b"image").hexdigest()
            add_result(
                transaction,
                new_result(
                    accession=f"A-{number}", specimen_id="S", order_id="O", image=image,
                    labels_png=image and b"labels", input_sha256=digest,
                ),
            )  # fmt: skip
        reviewed = transaction.connection.exec_driver_sql("SELECT max(id) FROM results").scalar()
        version = ResultVersion(2, "2026-11-22T13:00:00.000Z", "key:2", "final", 7, "accept",
                                "r-1", "clear", b"drawn")  # fmt: skip
        digest = add_version(transaction, str(reviewed), version)
        transaction.connection.exec_driver_sql(
            f"UPDATE results SET status = 'final', version = 2 WHERE id = '{reviewed}'"
        )
        transaction.audit(
            "result.reviewed", actor="key:2", subject=str(reviewed),
            details={"version": 2, "version_sha256": digest, "status": "final"},
        )  # fmt: skip
        for accession in ("H-1", "H-2"):
            held = Settlement(hold_unknown=True)
            add_result(transaction, new_result(accession=accession, settlement=held))
        requests = [OrderRequest("place", f"P-{n}", f"H-{n}", "F-1", "S") for n in (1, 7)]
        file_orders(transaction, requests, actor="key:1")
        for days in (None, 30.0, None):
            create_key(transaction, name="LIS", scopes=["results"], days=days, actor="a")
        ids = [key.id for key in list_keys(transaction.connection)]
        rotate_key(transaction, ids[0], overlap_days=7.0, days=None, actor="a")
        revoke_key(transaction, ids[1], actor="a")


@pytest.fixture(scope="module")
def filed(
    tmp_path_factory: pytest.TempPathFactory, new_result: Callable[..., NewResult]
) -> Iterator[Database]:
    """A SQLite database, which each test tampers with in a transaction that it takes back."""
    opened = Database.open(None, tmp_path_factory.mktemp("verification"))
    fill(opened, new_result)
    yield opened
    opened.close()


def tampered(database: Database, tamper: Callable[[Connection], None]) -> str | None:
    """Tamper as somebody may who owns the database file, and return what `verify` says."""
    with database._engine.connect() as connection, connection.begin() as transaction:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for name in connection.exec_driver_sql(triggers).scalars().all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        tamper(connection)
        problem = verify(connection).problem
        transaction.rollback()
    return problem


def other(value: Any, draw: st.DataObject) -> Any:
    """Another value of the same kind."""
    if value is None:
        # SQLite keeps bytes in a column of text as what they are; both must be noticed.
        return draw.draw(st.binary(max_size=3))
    if isinstance(value, int):
        return draw.draw(st.integers(-3, 12).filter(lambda new: new != value))
    position = draw.draw(st.integers(0, len(value) - 1))
    if isinstance(value, bytes):
        return value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
    new = draw.draw(st.characters(codec="ascii", exclude_characters=value[position] + "\0"))
    return draw.draw(
        st.sampled_from([value[:position] + new + value[position + 1 :], value + new, value[:-1]])
    )


def rows_of(connection: Connection, table: str) -> list[dict[str, Any]]:
    return [
        dict(row._mapping) for row in connection.execute(sa.select(Base.metadata.tables[table]))
    ]


def test_what_was_not_touched_verifies(filed: Database) -> None:
    with filed.reading() as connection:
        verdict = verify(connection)
    assert (verdict.problem, verdict.rows, verdict.results) == (None, 20, 6)


@pytest.mark.parametrize(("table", "column"), COLUMNS)
@settings(
    max_examples=5,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_every_field_is_protected(
    filed: Database, table: str, column: str, data: st.DataObject
) -> None:
    def tamper(connection: Connection) -> None:
        rows = rows_of(connection, table)
        row = rows[data.draw(st.integers(0, len(rows) - 1))]
        columns = Base.metadata.tables[table].columns
        key = [item == row[item.name] for item in columns if item.primary_key]
        value = other(row[column], data)
        try:
            connection.execute(
                sa.update(Base.metadata.tables[table]).where(*key).values({column: value})
            )
        except sa.exc.IntegrityError:
            # Another row has that key already; a value that the database refuses is no tampering.
            free = 99 if isinstance(value, int) else "f" * 32
            connection.execute(
                sa.update(Base.metadata.tables[table]).where(*key).values({column: free})
            )

    assert tampered(filed, tamper) is not None


@pytest.mark.parametrize("table", CHECKED)
def test_no_row_can_be_removed_or_doubled(filed: Database, table: str) -> None:
    with filed.reading() as connection:
        rows = rows_of(connection, table)
    target = Base.metadata.tables[table]
    for row in rows:
        key = [column == row[column.name] for column in target.columns if column.primary_key]

        def remove(connection: Connection, key: list[Any] = key) -> None:
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.execute(sa.delete(target).where(*key))

        assert tampered(filed, remove) is not None

    def double(connection: Connection) -> None:
        copy = rows[0] | {"id": "e" * 32, "result_id": rows[0].get("result_id", "")}
        if table == "audit_head":
            copy["id"] = 2
        if "sequence" in copy:
            copy["sequence"] = 90
        if "version" in copy:
            copy["version"] = 50
        if table == "orders":
            copy["placer_number"] = "P-99"
        if table == "api_keys":
            copy |= {"id": "0badc0de", "key_sha256": "0" * 64}
        if table in ("result_images", "order_results", "held_results"):
            free = f"SELECT id FROM results WHERE id NOT IN (SELECT result_id FROM {table}) LIMIT 1"
            copy["result_id"] = connection.execute(sa.text(free)).scalar()
        connection.execute(
            sa.insert(target),
            {name: copy[name] for name in target.columns.keys()},  # noqa: SIM118
        )

    assert tampered(filed, double) is not None


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 4), (4, 5)])
def test_rows_cannot_change_places(filed: Database, first: int, second: int) -> None:
    def swap(connection: Connection) -> None:
        for old, new in ((first, 90), (second, first), (90, second)):
            connection.exec_driver_sql(f"UPDATE audit SET sequence = {new} WHERE sequence = {old}")

    assert f"row {first} " in str(tampered(filed, swap))


def test_it_names_the_first_fault(filed: Database) -> None:
    def tamper(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE audit SET actor = 'x' WHERE sequence IN (3, 4)")
        connection.exec_driver_sql("DELETE FROM audit WHERE sequence = 5")

    assert tampered(filed, tamper) == "row 3 of the audit trail was altered"


def rewrite(connection: Connection, entries: list[AuditEntry]) -> None:
    """Write the whole chain anew, as an attacker who knows how it is made."""
    connection.exec_driver_sql("DELETE FROM audit")
    previous = FIRST_HASH
    for number, entry in enumerate(entries, start=1):
        values = {name: getattr(entry, name) for name in AuditEntry.__slots__}
        values |= {"sequence": number, "previous_hash": previous, "hash": ""}
        previous = values["hash"] = AuditEntry(**values).computed_hash()
        connection.execute(sa.insert(Base.metadata.tables["audit"]), values)
    connection.exec_driver_sql(
        f"UPDATE audit_head SET sequence = {len(entries)}, hash = '{previous}'"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE api_keys SET revoked_utc = NULL",
        "UPDATE api_keys SET expires_utc = '2999-01-01T00:00:00.000Z'",
        "UPDATE api_keys SET scopes = 'admin results'",
        "DELETE FROM api_keys",
    ],
)
def test_keys_of_an_older_version_are_checked_as_far_as_its_trail_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    new = ("record_sha256", "revoked_utc")
    audit = Transaction.audit

    def older(self: Transaction, action: str, *, details: Any, **others: Any) -> int:
        kept = {name: value for name, value in details.items() if name not in new}
        return audit(self, action, details=kept, **others)

    monkeypatch.setattr(Transaction, "audit", older)
    database = Database.open(None, tmp_path)
    with database.writing() as transaction:
        _, key = create_key(transaction, name="LIS", scopes=["results"], days=None, actor="a")
        rotate_key(transaction, key.id, overlap_days=7.0, days=None, actor="a")
        revoke_key(transaction, key.id, actor="a")
    with database.reading() as connection:
        assert verify(connection).problem is None
    assert "key " in str(tampered(database, lambda connection: _run(connection, statement)))
    database.close()


def _run(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


def test_a_head_that_was_kept_elsewhere_convicts_who_sets_the_trail_back(
    tmp_path: Path,
) -> None:
    database = Database.open(None, tmp_path)
    for number in range(4):
        with database.writing() as transaction:
            transaction.audit("test.happened", actor="a", subject=str(number), details={})
    with database.reading() as connection:
        entries = read_entries(connection, 0, 10)
        anchor = parse_anchor(verify(connection).head)
    for kept in (entries[:3], [*entries[:2], entries[3], entries[2]]):
        with database._engine.connect() as connection, connection.begin() as transaction:
            for name in ("audit_no_delete", "audit_head_no_update"):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            rewrite(connection, kept)
            assert verify(connection).problem is None
            assert verify(connection, anchor).problem is not None
            transaction.rollback()
    database.close()


def test_an_export_can_be_checked_without_the_database(filed: Database) -> None:
    with filed.reading() as connection:
        lines = [entry.to_json() for entry in read_entries(connection, 0, 100)]
        head = verify(connection).head
    assert verify_export(lines).head == head
    assert verify_export(lines).problem is None
    altered = [lines[0], lines[1].replace(b"preliminary", b"final"), *lines[2:]]
    assert verify_export(altered).problem == "row 2 of the audit trail was altered"
    assert verify_export(lines[:1] + lines[2:]).problem is not None
    assert verify_export(lines[:-1], parse_anchor(head)).problem is not None


@pytest.mark.parametrize("line", [b"[]", b"7", b"{}", b'{"details": {}}', b"", b"{", b"\xff"])
def test_what_is_no_export_is_refused(filed: Database, line: bytes) -> None:
    with filed.reading() as connection:
        first = read_entries(connection, 0, 1)[0].to_json()
    with pytest.raises(ValueError, match="no row"):
        verify_export([first, line])


def test_values_of_another_kind_in_an_export_are_found(filed: Database) -> None:
    with filed.reading() as connection:
        (entry,) = read_entries(connection, 0, 1)
    for changes in ({"details": "[]"}, {"details": "{}"}, {"details": "7"}):
        forged = AuditEntry(**({name: getattr(entry, name) for name in entry.__slots__} | changes))
        values = {name: getattr(forged, name) for name in entry.__slots__}
        sealed = AuditEntry(**(values | {"hash": forged.computed_hash()}))
        verdict = verify_export([sealed.to_json()])
        assert verdict.problem is not None, changes


READER = """
import resource, sys
from pathlib import Path
from service.records.database import Database
from service.records.verification import verify
database = Database.open(sys.argv[1], Path("."))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with database.reading() as connection:
    print(verify(connection).results, end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_verifying_does_not_hold_all_kept_images(
    database: Database, database_url: str, new_result: Callable[..., NewResult]
) -> None:
    image = bytes(6_000_000)
    digest = hashlib.sha256(image).hexdigest()
    with database.writing() as transaction:
        for _ in range(16):
            add_result(
                transaction, new_result(image=image, labels_png=b"labels", input_sha256=digest)
            )
    done = subprocess.run(
        [sys.executable, "-c", READER, database_url], capture_output=True, text=True, check=True
    )
    results, grown_kb = (int(word) for word in done.stdout.split())
    assert results == 16
    assert grown_kb < 72_000


@pytest.mark.parametrize("text", ["", "1", "x:" + "0" * 64, "1:abc"])
def test_a_malformed_anchor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an anchor is"):
        parse_anchor(text)
