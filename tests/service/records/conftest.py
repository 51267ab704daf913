"""Both databases, and results to put into them."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.records.database import Database
from service.records.recorder import Recorder
from service.records.results import NewResult


def postgresql_programs() -> Path | None:
    """The folder of PostgreSQL's server programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[str]:
    """URL of a private server on a socket in a temporary folder, without a database's name."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server programs (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="karyon-postgresql-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        # The server refuses to run as root.
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("runs as root, and there is no user `postgres` to run the server as")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", f"--regid={owner.pw_gid}", "--clear-groups"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "-D", data, "-U", "karyon", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://karyon@/{{name}}?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_names = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite3'}"
    cluster: str = request.getfixturevalue("postgresql_cluster")
    name = f"karyon_{next(_names)}"
    with psycopg.connect(cluster.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return cluster.format(name=name)


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
