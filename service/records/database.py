"""The database: a SQLite file or PostgreSQL, with one writer at a time in either.

Writers take turns because the audit trail is one chain: `BEGIN IMMEDIATE` on SQLite, a transaction
advisory lock on PostgreSQL, both taken first, so that writers of several processes cannot deadlock.
Readers never wait for a writer.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from service.errors import DatabaseError, RecordsUnavailableError
from service.records.audit import Transaction

SQLITE_FILE: Final = "karyon.sqlite3"
VERSION_TABLE: Final = "karyon_schema_version"
_BUSY_TIMEOUT_MS: Final = 10_000
_WIPE_TIMEOUT_MS: Final = 1_000
_FROZEN_MS: Final = 30_000
"""A writer that has said nothing for so long stands still, and loses its turn."""
_POSTGRESQL_PATIENCE: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq's settings for a server that is gone without a word; else writes would wait for hours."""
# "karyon" in ASCII: whoever else uses advisory locks in this database is unlikely to take it.
_WRITER_LOCK: Final = 0x6B6172796F6E
_WRITES: Final = "karyon_writes"
_logger = structlog.stdlib.get_logger("karyon.records")


class SchemaBehindError(DatabaseError):
    """The schema is an older one, and must not be brought up to date."""


class Database:
    """An open database of the right schema version."""

    def __init__(self, engine: sa.Engine, destinations: Sequence[str] = ()) -> None:
        """Take an engine; see `open`."""
        self._engine = engine
        self._destinations = tuple(destinations)
        self.is_sqlite = engine.dialect.name == "sqlite"
        options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reading = engine.execution_options(**options)
        self._writing = engine.execution_options(**{_WRITES: True})

    @classmethod
    def open(
        cls,
        url: str | None,
        data_dir: Path,
        *,
        migrate: bool = True,
        destinations: Sequence[str] = (),
    ) -> Self:
        """Connect, and bring the schema up to date. Blocking.

        Args:
            url: SQLAlchemy URL of SQLite or PostgreSQL; None takes `data_dir/karyon.sqlite3`.
            data_dir: Folder of the SQLite file; made where missing.
            migrate: Whether a schema that is behind is brought up to date, or refused.
            destinations: Where each state of a result that is filed here is to be delivered.

        Raises:
            DatabaseError: It cannot be opened, or has a schema that this program does not know.
        """
        try:
            database = cls(_create_engine(url, data_dir), destinations)
            try:
                database._check_schema(migrate=migrate)
            except BaseException:
                database.close()
                raise
        except (OSError, SQLAlchemyError, ImportError) as error:
            # The message of a driver may repeat the URL, which holds a password.
            raise DatabaseError(
                f"the database cannot be opened ({type(error).__name__}); check"
                " KARYON_DATABASE_URL, KARYON_DATA_DIR and their permissions"
            ) from error
        return database

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def wipe_journal(self) -> None:
        """Leave nothing of what was removed in SQLite's journal; PostgreSQL has none of its own.

        Blocking: a second at most while somebody reads, and then it is left to the next time.

        Raises:
            RecordsUnavailableError: The database does not answer.
        """
        if not self.is_sqlite:
            return
        with _unavailable():
            connection = self._engine.raw_connection()
            # A transaction would refuse it. Writers wait as long as this waits for readers.
            cursor = connection.cursor()
            try:
                cursor.execute(f"PRAGMA busy_timeout = {_WIPE_TIMEOUT_MS}")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
            except sqlite3.Error as error:
                raise RecordsUnavailableError("The records cannot be reached now.") from error
            finally:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a read transaction that sees one state of the database throughout.

        Raises:
            RecordsUnavailableError: The database does not answer.
        """
        with _unavailable(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Open a write transaction; no other runs in this database meanwhile.

        Raises:
            RecordsUnavailableError: The database does not answer, or the turn did not come.
        """
        with _unavailable(), self._writing.begin() as connection:
            if not self.is_sqlite:
                # In one round trip: how long to wait for the turn, and others for it; the turn.
                connection.execute(
                    sa.select(
                        sa.func.set_config("lock_timeout", f"{_BUSY_TIMEOUT_MS}ms", True),
                        sa.func.set_config(
                            "idle_in_transaction_session_timeout",
                            f"{_FROZEN_MS}ms",
                            True,
                        ),
                        sa.func.pg_advisory_xact_lock(_WRITER_LOCK),
                    )
                )
            transaction = Transaction(connection, self._destinations)
            yield transaction
            transaction.finish()

    def _check_schema(self, *, migrate: bool) -> None:
        with self._writing.begin() as connection:
            if not self.is_sqlite:
                # Replicas that start together migrate one after the other.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            scripts = ScriptDirectory.from_config(config)
            newest = scripts.get_current_head()
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            present = context.get_current_revision()
            if present == newest:
                return
            if present not in {None, *(script.revision for script in scripts.walk_revisions())}:
                raise DatabaseError(
                    f"the database has schema {present}, which this version of Karyon does not"
                    " know; start the newer version that made it"
                )
            if not migrate:
                raise SchemaBehindError(
                    f"the database has schema {present}, this version needs {newest}, and"
                    " KARYON_MIGRATE=false forbids to change it"
                )
            command.upgrade(config, "head")


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn what the database says into the one error that callers are told of."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else None
        _logger.warning(
            "records unavailable",
            error=type(error if cause is None else cause).__name__,
            # Of SQLite, as SQLITE_FULL, or of PostgreSQL. The text might tell what was written.
            code=getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None),
        )
        raise RecordsUnavailableError("The records cannot be reached now.") from error


def _create_engine(url: str | None, data_dir: Path) -> sa.Engine:
    if url is None:
        data_dir.mkdir(parents=True, exist_ok=True)
        parsed = sa.URL.create("sqlite", database=str(data_dir / SQLITE_FILE))
    else:
        try:
            parsed = sa.make_url(url)
        except ArgumentError as error:
            raise DatabaseError("KARYON_DATABASE_URL is no database URL") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseError("KARYON_DATABASE_URL must begin with sqlite:/// or postgresql://")
    patience: dict[str, Any] = {}
    if parsed.get_backend_name() == "postgresql":
        patience = {k: v for k, v in _POSTGRESQL_PATIENCE.items() if k not in parsed.query}
    try:
        # A connection that a firewall dropped is found before a result depends on it.
        # An error of the driver may be logged: it must not show what the laboratory sent.
        engine = sa.create_engine(
            parsed,
            pool_pre_ping=parsed.get_backend_name() != "sqlite",
            hide_parameters=True,
            connect_args=patience,
        )
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError(
            "PostgreSQL needs the extra `postgres`: pip install '.[postgres]' in a checkout"
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions late, so that two writers could both read the same head.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        # A power cut must not take back a result that a laboratory has already filed.
        "synchronous = FULL",
        "foreign_keys = ON",
        # What is purged is overwritten, however the library was built.
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
