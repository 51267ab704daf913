"""The operator's commands as they are typed: keys, audit verify, the refusal of an open door."""

import datetime as dt
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.records.database import SQLITE_FILE, Database
from service.records.keys import find_key

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder that the commands see."""
    monkeypatch.setenv("KARYON_DATA_DIR", str(tmp_path))
    return tmp_path


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    done = runner.invoke(app, arguments)
    assert done.exit_code == status, done.output
    return done.stdout.strip(), done.stderr.strip()


def test_a_key_is_made_shown_once_rotated_and_revoked(folder: Path) -> None:
    key, words = run("keys", "create", "--name", "LIS", "--scopes", "segment, results")
    assert re.fullmatch(r"karyon_[0-9a-f]{8}_[\w-]{43}", key)
    assert "LIS" in words
    key_id = key.split("_")[1]
    successor, _ = run("keys", "rotate", key_id, "--overlap-days", "0", "--days", "30")
    run("keys", "revoke", successor.split("_")[1])
    listed, _ = run("keys", "list")
    assert "segment" in listed
    assert "expired" in listed
    assert "revoked" in listed
    assert key not in listed
    database = Database.open(None, folder)
    with database.reading() as connection:
        actions = connection.exec_driver_sql("SELECT action, actor FROM audit ORDER BY sequence")
        done, actors = zip(*actions.all(), strict=True)
        with pytest.raises(Exception, match="expired"):
            find_key(connection, key)
    database.close()
    assert list(done) == ["key.created", "key.created", "key.rotated", "key.revoked"]
    assert all(actor.startswith("command-line:") for actor in actors)


@pytest.mark.usefixtures("folder")
def test_the_successor_of_a_key_that_ends_ends_too() -> None:
    key, _ = run("keys", "create", "--scopes", "segment", "--days", "365")
    _, words = run("keys", "rotate", key.split("_")[1])
    until = dt.datetime.fromisoformat(words.partition("until ")[2].partition(". It is")[0])
    assert 364 < (until - dt.datetime.now(dt.UTC)).days + 1 <= 365
    key, _ = run("keys", "create", "--scopes", "segment")
    assert "without an end" in run("keys", "rotate", key.split("_")[1])[1]


def test_what_is_wrong_is_said_in_a_line(folder: Path) -> None:
    assert (
        "unknown scope everything" in run("keys", "create", "--scopes", "everything", status=2)[1]
    )
    assert "no scope" in run("keys", "create", "--scopes", ",", status=2)[1]
    assert "no key 00000000" in run("keys", "revoke", "00000000", status=2)[1]
    assert "no active key" in run("keys", "rotate", "00000000", status=2)[1]
    assert "an anchor is" in run("audit", "verify", "--anchor", "x", status=2)[1]
    assert "missing.jsonl" in run("audit", "verify", "--export", "missing.jsonl", status=2)[1]
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    assert "not empty" in run("export-reviewed", str(folder / "full"), status=2)[1]


def test_verify_tells_sound_from_tampered(folder: Path) -> None:
    for _ in range(3):
        run("keys", "create")
    shown, _ = run("audit", "verify")
    assert shown.startswith("sound: 3 rows, 0 results; head 3:")
    head = shown.rsplit(" ", 1)[1]
    run("audit", "verify", "--anchor", head)
    run("export-reviewed", str(folder / "out"))
    with sqlite3.connect(folder / SQLITE_FILE) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 2")
    connection.close()
    _, words = run("audit", "verify", "--anchor", head, status=1)
    assert words == "NOT SOUND: row 2 of the audit trail was altered"


def test_it_does_not_open_the_door_by_accident(tmp_path: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--host", "0.0.0.0", "--port", "0"],  # noqa: S104  refused
        env={**os.environ, "KARYON_DATA_DIR": str(tmp_path), "PYTHONPATH": str(repository)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "KARYON_AUTH=required" in done.stderr
    assert not list(tmp_path.iterdir())
