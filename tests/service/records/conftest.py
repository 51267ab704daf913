"""Both databases, and results to put into them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.records.database import Database
from service.records.recorder import Recorder
from service.records.results import NewResult


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite3'}"
    new_database: Callable[[], str] = request.getfixturevalue("new_postgresql_database")
    return new_database()


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An open database with the newest schema."""
    opened = Database.open(database_url, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def recorder(database_url: str, tmp_path: Path) -> Iterator[Recorder]:
    """A recorder over an empty database."""
    opened = Recorder(Database.open(database_url, tmp_path))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def new_result() -> Callable[..., NewResult]:
    """Makes results: `new_result(accession="A")`; each call has a new id."""
    numbers = itertools.count(1)

    def make(**changes: Any) -> NewResult:
        values: dict[str, Any] = {
            "id": f"{next(numbers):032x}",
            "created_utc": "2026-11-22T12:00:00.000Z",
            "caller": "key:1",
            "accession": None,
            "specimen_id": None,
            "order_id": None,
            "input_sha256": "a" * 64,
            "pixel_sha256": "b" * 64,
            "model_name": "tiny",
            "model_version": "1.0.0",
            "model_digest": "c" * 64,
            "count": 7,
            "software": {"karyon": "0"},
            "document": {"count": 7, "density_per_mm2": 12.5},
        }
        return NewResult(**(values | changes))

    return make
