"""Opening a database: migrations, refusals, triggers."""

from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.errors import DatabaseError, RecordsUnavailableError
from service.records.audit import Transaction
from service.records.database import VERSION_TABLE, Database
from service.records.schema import Base


def test_the_migrations_make_what_the_program_expects(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_schema_that_is_behind_is_refused_where_migrations_are_forbidden(
    database_url: str, tmp_path: Path
) -> None:
    with pytest.raises(DatabaseError, match="KARYON_MIGRATE"):
        Database.open(database_url, tmp_path, migrate=False)
    Database.open(database_url, tmp_path).close()
    Database.open(database_url, tmp_path, migrate=False).close()


def test_a_newer_schema_is_refused(database: Database, database_url: str, tmp_path: Path) -> None:
    with database.writing() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE karyon_schema_version SET version_num = '9999'"
        )
    with pytest.raises(DatabaseError, match="newer version"):
        Database.open(database_url, tmp_path)


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://root:secret@localhost/x", "sqlite:////proc/nowhere/x.sqlite3"]
)
def test_what_cannot_be_opened_is_refused_without_telling_the_password(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(DatabaseError) as refused:
        Database.open(url, tmp_path)
    assert "secret" not in str(refused.value)


def execute(database: Database, statement: str) -> None:
    with database.writing() as transaction:
        transaction.connection.exec_driver_sql(statement)


def append(transaction: Transaction) -> None:
    transaction.audit("test.happened", actor="a", subject="s", details={})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'somebody else'",
        "DELETE FROM audit",
        "DELETE FROM audit_head",
        "UPDATE audit_head SET sequence = 0",
    ],
)
def test_the_database_refuses_to_change_the_trail(database: Database, statement: str) -> None:
    with database.writing() as transaction:
        append(transaction)
    with pytest.raises(RecordsUnavailableError) as refused:
        execute(database, statement)
    assert isinstance(refused.value.__cause__, sa.exc.DBAPIError)
    assert "append-only" in str(refused.value.__cause__)


def test_a_rolled_back_transaction_leaves_no_gap(database: Database) -> None:
    with suppress(KeyError), database.writing() as transaction:
        append(transaction)
        raise KeyError
    with database.writing() as transaction:
        assert transaction.next_sequence == 1


def test_the_log_tells_why_the_records_are_unavailable(tmp_path: Path) -> None:
    """A full disk, say; never with the text of the database, which might tell what was written."""
    database = Database.open(None, tmp_path)
    with structlog.testing.capture_logs() as logs:
        execute(database, "PRAGMA max_page_count = 1")
        with pytest.raises(RecordsUnavailableError):
            execute(database, "CREATE TABLE secret AS SELECT zeroblob(99999)")
        database.close()
    told = {"event": "records unavailable", "error": "OperationalError", "code": "SQLITE_FULL"}
    assert logs == [{**told, "log_level": "warning"}]
