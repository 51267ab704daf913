"""Readiness follows a real database that hangs, goes away and comes back."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from psycopg import sql

from service.app import create_app
from service.records.database import Database
from service.records.probe import RecordsProbe
from service.settings import Settings


@pytest.fixture
def database_url(new_postgresql_database: Callable[[], str]) -> str:
    return new_postgresql_database()


@pytest.fixture
def client(api_settings: Settings, database_url: str, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings.model_validate(
        {**api_settings.model_dump(), "database_url": database_url, "data_dir": tmp_path}
    )
    with TestClient(create_app(settings)) as opened:
        yield opened


def becomes(client: TestClient, status: int) -> Any:
    """Probe until the status is as wanted; return the answer."""
    deadline = time.monotonic() + 60.0
    while (answer := client.get("/health/ready")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    return answer.json()


def test_a_database_that_goes_away_and_comes_back(client: TestClient, database_url: str) -> None:
    becomes(client, 200)
    name = str(sa.make_url(database_url).database)
    server = database_url.replace(f"/{name}?", "/postgres?")
    with psycopg.connect(server, autocommit=True) as connection:
        allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        problem = becomes(client, 503)
        assert problem["type"] == "/problems/not-ready"
        assert problem["detail"] == "The records database cannot be reached."
        # The process is well: nobody should restart it.
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/startup").status_code == 200
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("true")))
        becomes(client, 200)


def test_a_database_that_hangs(client: TestClient, database_url: str) -> None:
    becomes(client, 200)
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE results IN ACCESS EXCLUSIVE MODE")
        problem = becomes(client, 503)
        assert problem["detail"] == "The records database does not answer in time."
    becomes(client, 200)


def test_many_probes_are_one_question(tmp_path: Path) -> None:
    database = Database.open(None, tmp_path)
    questions: list[str] = []

    @sa.event.listens_for(database._engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        questions.append(statement)

    async def probe() -> None:
        probe = RecordsProbe(database)
        for _ in range(3):
            await asyncio.gather(*(probe.check() for _ in range(10)))

    asyncio.run(probe())
    database.close()
    assert len([statement for statement in questions if statement.startswith("SELECT")]) == 1


def test_without_records_there_is_nobody_to_ask(api_settings: Settings) -> None:
    with TestClient(create_app(api_settings.model_copy(update={"records": False}))) as client:
        assert client.get("/health/ready").status_code == 200
