"""The service is killed while it delivers; each result reaches each kind of receiver once.

`make soak-delivery` kills a hundred times on SQLite and ten times on PostgreSQL; `MINUTES=30` stops
it after that long, with what it has.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import select

from service.records.database import Database
from service.records.outbox import delivery_id, list_deliveries
from service.records.schema import ResultRow, ResultVersionRow
from service.records.verification import verify

KILLS = int(os.environ.get("DELIVERY_KILLS", "2"))
MINUTES = float(os.environ.get("DELIVERY_MINUTES", "inf"))
RESULTS_A_KILL = 3
Serve = Callable[[Any], int]


class Service:
    """The real service in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Karyon is ready"), line
        self.url = line.split()[4]

    def segment(self, image: bytes, accession: str) -> str:
        """Return the id of a new result."""
        request = urllib.request.Request(  # noqa: S310  loopback
            f"{self.url}/segment?accession={accession}", image, {"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  loopback
            made: str = json.load(answer)["id"]
            return made

    def segment_or_die(self, image: bytes, accession: str) -> None:
        """Ask for a result of a process that is about to be killed."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.segment(image, accession)

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def services() -> Iterator[Callable[[dict[str, str]], Service]]:
    """Starts services; none of them outlives a test that fails."""
    started: list[Service] = []

    def start(environment: dict[str, str]) -> Service:
        started.append(Service(environment))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.end(signal.SIGKILL)


def slow_inbox(receiver: ModuleType) -> Any:
    class Slow(receiver.Inbox):  # type: ignore[misc, name-defined]  # loaded from examples/ at run time
        """Files at once and answers late: a kill in between leaves it filed, unacknowledged."""

        def take(self, kind: str, key: str, body: bytes) -> int:
            status: int = super().take(kind, key, body)
            assert self.filed[f"{kind}:{key}"] == body, "one key, one content"
            time.sleep(0.3)
            return status

    return Slow()


def slow_laboratory(senaite: ModuleType, kills: int) -> Any:
    class Slow(senaite.Laboratory):  # type: ignore[misc, name-defined]  # loaded from examples/ at run time
        """Likewise; it has a sample for every image that is sent."""

        delay_s = 0.0

        def update(self, record: dict[str, Any]) -> dict[str, Any]:
            item: dict[str, Any] = super().update(record)
            time.sleep(self.delay_s)
            return item

    laboratory = Slow()
    for kill in range(kills):
        for number in range(RESULTS_A_KILL + 1):
            laboratory.register(f"K{kill}-{number}", "NUC")
    laboratory.updates.clear()
    laboratory.delay_s = 0.3
    return laboratory


def delivered(database: Database) -> int:
    with database.reading() as connection:
        return len(list_deliveries(connection, status="delivered", most=100_000))


def check_laboratory(laboratory: Any, recorded: dict[str, tuple[str, int]], kills: int) -> None:
    """Each recorded result stands in its sample, once and with its count; nothing else does."""
    by_accession = {accession: (key, count) for key, (accession, count) in recorded.items()}
    for kill in range(kills):
        for number in range(RESULTS_A_KILL + 1):
            (analysis,) = laboratory.analyses(f"K{kill}-{number}", "NUC")
            standing = (analysis["review_state"], analysis["Result"])
            if f"K{kill}-{number}" not in by_accession:
                assert standing == ("unassigned", "")
                continue
            result_id, count = by_accession[f"K{kill}-{number}"]
            assert standing == ("to_be_verified", str(count))
            assert analysis["Remarks"].count(result_id) == 1
    assert len(laboratory.updates) == len(recorded), "something was written twice"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_kills_lose_nothing_and_double_nothing(
    kind: str,
    request: pytest.FixtureRequest,
    services: Callable[[dict[str, str]], Service],
    tiny_models_dir: Path,
    receiver: ModuleType,
    senaite: ModuleType,
    serve: Serve,
    destinations: Callable[..., list[dict[str, Any]]],
    webhook_secret: str,
    eventually: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
    he_png: bytes,
    repository: Path,
) -> None:
    url = None
    kills = KILLS
    if kind == "postgresql":
        url = request.getfixturevalue("new_postgresql_database")()
        kills = max(1, KILLS // 10)
    inbox = slow_inbox(receiver)
    laboratory = slow_laboratory(senaite, kills)
    targets = destinations(
        serve(receiver.http_server(0, inbox, webhook_secret)),
        serve(receiver.mllp_server(0, inbox)),
        serve(senaite.senaite_server(0, laboratory, "karyon", "secret")),
    )
    environment = {name: value for name, value in os.environ.items() if "KARYON" not in name} | {
        "PYTHONPATH": str(repository),
        "KARYON_MODELS_DIR": str(tiny_models_dir),
        "KARYON_DEFAULT_MODEL": "tiny",
        "KARYON_PROVIDER": "cpu",
        "KARYON_LOAD_VERSIONS": "active",
        "KARYON_DATA_DIR": str(tmp_path),
        "KARYON_DELIVERIES": json.dumps(targets),
        "KARYON_DELIVERY_TIMEOUT_S": "2",
        "KARYON_DELIVERY_FIRST_RETRY_S": "0.1",
        **({} if url is None else {"KARYON_DATABASE_URL": url}),
    }
    answered: list[str] = []
    killed = 0
    end = time.monotonic() + 60.0 * MINUTES
    for kill in range(kills):
        if kill and time.monotonic() > end:
            break
        killed += 1
        service = services(environment)
        before = len(inbox.arrivals)
        answered += [
            service.segment(he_png, f"K{kill}-{number}") for number in range(RESULTS_A_KILL)
        ]
        # The first kill comes when something was filed and not yet acknowledged.
        eventually(lambda before=before: len(inbox.arrivals) > before, "deliveries begin")  # type: ignore[misc]  # the default binds the loop's value
        time.sleep(random.Random(kill).uniform(0.0, 1.0) if kill else 0.05)
        caller = threading.Thread(
            target=service.segment_or_die, args=(he_png, f"K{kill}-{RESULTS_A_KILL}")
        )
        caller.start()
        time.sleep(random.Random(kill).uniform(0.0, 0.05))
        service.end(signal.SIGKILL)
        caller.join()
    last = services(environment)
    database = Database.open(url, tmp_path)
    with database.reading() as connection:
        rows = connection.execute(
            select(ResultRow.id, ResultRow.accession, ResultVersionRow.count).join_from(
                ResultRow, ResultVersionRow
            )
        )
        recorded = {row.id: (row.accession, row.count) for row in rows}
    # What was answered is on record; what the kill cut off may be, and is delivered then too.
    assert set(answered) <= set(recorded)
    hooks = {f"webhook:{delivery_id(result_id, 1, 'webhook')}" for result_id in recorded}
    eventually(
        lambda: delivered(database) == len(targets) * len(recorded), "all is acknowledged by all"
    )
    last.end(signal.SIGTERM)
    assert {key for key in inbox.filed if key.startswith("webhook:")} == hooks
    assert len(inbox.filed) == 3 * len(recorded), "nothing is there twice under two keys"
    assert len(inbox.arrivals) > len(inbox.filed), "no kill came between filing and answering"
    check_laboratory(laboratory, recorded, kills)
    with database.reading() as connection:
        verdict = verify(connection)
    database.close()
    assert (verdict.problem, verdict.results) == (None, len(recorded))
    print(f"{kind}: {killed} kills: {len(recorded)} results, filed at {len(targets)} destinations,")
    print(f"{len(inbox.arrivals) - len(inbox.filed)} resends recognised, 0 lost, 0 doubled, chain")
    print("verifies")
