"""Results through the recorder: filing, finding, purging, and writers that crowd."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import select

from service.errors import (
    DatabaseError,
    InvalidParameterError,
    RecordsUnavailableError,
    UnknownResultError,
)
from service.records import database as database_module
from service.records import retention
from service.records.audit import Transaction, read_entries
from service.records.database import Database
from service.records.idempotency import IdempotencyKey, StoredAnswer, claim, complete
from service.records.recorder import Recorder
from service.records.result_list import ResultFilter, list_results
from service.records.results import (
    NewResult,
    add_result,
    get_result,
    get_versions,
)
from service.records.retention import purge_once
from service.records.schema import IdempotencyKeyRow
from service.records.verification import verify

Make = Callable[..., NewResult]
Value = TypeVar("Value")


def run(work: Coroutine[Any, Any, Value]) -> Value:
    return asyncio.run(work)


def file(recorder: Recorder, *results: NewResult) -> None:
    for result in results:
        recorder.submit(lambda transaction, result=result: add_result(transaction, result)).result()


def found(recorder: Recorder, **wanted: str) -> list[str]:
    page, cursor = run(
        recorder.read(lambda c: list_results(c, ResultFilter(**wanted), cursor=None, most=100))
    )
    assert cursor is None
    return [result.id for result in page]


def test_what_was_filed_is_found(recorder: Recorder, new_result: Make) -> None:
    first = new_result(accession="A", order_id="O")
    second = new_result(
        accession="B", model_version="2.0.0", created_utc="2026-11-23T00:00:00.000Z"
    )
    file(recorder, first, second)
    read = run(recorder.read(lambda c: get_result(c, first.id)))
    assert (read.accession, read.order_id, read.specimen_id) == ("A", "O", None)
    assert read.document == first.document
    assert (read.current.status, read.current.version, read.current.count) == ("preliminary", 1, 7)
    assert len(run(recorder.read(lambda c: get_versions(c, first.id)))) == 1
    assert found(recorder) == [second.id, first.id]
    assert found(recorder, accession="A") == [first.id]
    assert found(recorder, model="tiny") == [second.id, first.id]
    assert found(recorder, model="tiny:2.0.0") == [second.id]
    assert found(recorder, status="final") == []
    assert found(recorder, since_utc="2026-11-22T18:00:00.000Z") == [second.id]
    assert found(recorder, until_utc="2026-11-22T18:00:00.000Z") == [first.id]
    with pytest.raises(UnknownResultError):
        run(recorder.read(lambda c: get_result(c, "0" * 32)))
    with pytest.raises(UnknownResultError):
        run(recorder.read(lambda c: get_versions(c, "0" * 32)))


def test_pages_hold_each_result_once(recorder: Recorder, new_result: Make) -> None:
    results = [new_result() for _ in range(7)]
    file(recorder, *results)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = run(
            recorder.read(lambda c, at=cursor: list_results(c, ResultFilter(), cursor=at, most=3))
        )
        seen += [result.id for result in page]
        # What comes in meanwhile does not push anything onto a second page.
        file(recorder, new_result())
        if cursor is None:
            break
    assert seen == [result.id for result in reversed(results)]


@pytest.mark.parametrize("cursor", ["x", "!!", "YmVmb3JlOg", "YWZ0ZXI6MQ", "é"])
def test_a_foreign_cursor_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(InvalidParameterError), database.reading() as connection:
        list_results(connection, ResultFilter(), cursor=cursor, most=1)


def test_a_write_that_fails_takes_no_other_with_it(recorder: Recorder, new_result: Make) -> None:
    twice = new_result()
    file(recorder, twice)
    with ThreadPoolExecutor(20) as threads:
        futures = list(
            threads.map(
                lambda result: recorder.submit(lambda transaction: add_result(transaction, result)),
                [new_result() if number % 4 else twice for number in range(20)],
            )
        )
    failed = [future for future in futures if future.exception() is not None]
    assert len(failed) == 5
    assert all(isinstance(future.exception(), RecordsUnavailableError) for future in failed)
    verdict = run(recorder.read(verify))
    assert (verdict.problem, verdict.rows, verdict.results) == (None, 16, 16)


def test_a_closed_recorder_has_written_everything(
    database_url: str, tmp_path: Path, new_result: Make
) -> None:
    recorder = Recorder(Database.open(database_url, tmp_path))
    futures = [
        recorder.submit(lambda transaction, result=result: add_result(transaction, result))
        for result in [new_result() for _ in range(100)]
    ]
    recorder.close()
    assert [future.result() for future in futures] == list(range(1, 101))
    with pytest.raises(RecordsUnavailableError):
        recorder.submit(lambda _: None)


WRITER = """
import sys
from pathlib import Path
from service.records.database import Database
database = Database.open(sys.argv[1], Path("."))
for number in range(40):
    with database.writing() as transaction:
        transaction.audit("test.happened", actor=sys.argv[2], subject=str(number), details={})
"""


def test_processes_and_threads_keep_one_chain(
    recorder: Recorder, database_url: str, new_result: Make
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, database_url, f"process-{n}"])
        for n in range(2)
    ]
    for _ in range(40):
        file(recorder, new_result())
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    verdict = run(recorder.read(verify))
    assert (verdict.problem, verdict.rows, verdict.results) == (None, 120, 40)


def test_old_results_and_images_go_and_the_trail_tells(
    recorder: Recorder, new_result: Make
) -> None:
    sample = b"image bytes"
    old = new_result(created_utc="2020-01-01T00:00:00.000Z")
    middle = new_result(
        created_utc="2026-01-01T00:00:00.000Z", image=sample, labels_png=b"labels",
        input_sha256="21a55e386aff92a4df88fc264de06c2c4ebd4ffca36bd7d1a3c3a5d2d5d0b1c1",
    )  # fmt: skip
    young = new_result(created_utc="2099-01-01T00:00:00.000Z")
    file(recorder, old, middle, young)
    # The kept image is not the one whose digest was recorded.
    assert "kept image" in str(run(recorder.read(verify)).problem)
    assert run(purge_once(recorder, result_days=365 * 4, image_days=1 / 86400)) == (1, 1)
    assert found(recorder) == [young.id, middle.id]
    verdict = run(recorder.read(verify))
    assert (verdict.problem, verdict.rows, verdict.results) == (None, 5, 2)
    assert run(purge_once(recorder, result_days=None, image_days=None)) == (0, 0)


def test_a_purge_leaves_nothing_in_the_files(tmp_path: Path, new_result: Make) -> None:
    marks = [b"IMAGE-OF-A-PATIENT" * 400, b"S26-REMNANT"]
    recorder = Recorder(Database.open(None, tmp_path))
    old = new_result(
        created_utc="2020-01-01T00:00:00.000Z", image=marks[0], labels_png=b"labels",
        accession=marks[1].decode(),
    )  # fmt: skip
    file(recorder, old)

    def left() -> list[bytes]:
        files = [path.read_bytes() for path in tmp_path.iterdir()]
        return [mark for mark in marks if any(mark[:18] in data for data in files)]

    assert left() == marks
    assert run(purge_once(recorder, result_days=1.0, image_days=1.0)) == (1, 1)
    assert left() == []
    recorder.close()


def test_expired_answers_go_without_another_key(recorder: Recorder) -> None:
    def keep(transaction: Transaction) -> None:
        for number, lifetime_s in ((2, 60.0), (1, -1.0)):
            key = IdempotencyKey("key:1", str(number))
            claim(transaction, key, fingerprint="f", owner="o", lifetime_s=lifetime_s)
            complete(transaction, key, "o", StoredAnswer(200, "application/json", {}, b"S26-1"))

    run(recorder.write(keep))
    run(purge_once(recorder, result_days=None, image_days=None))
    kept = select(IdempotencyKeyRow.key)
    assert run(recorder.read(lambda connection: connection.scalars(kept).all())) == ["2"]


def test_a_million_days_are_for_ever(recorder: Recorder, new_result: Make) -> None:
    file(recorder, new_result(created_utc="2020-01-01T00:00:00.000Z"))
    assert run(purge_once(recorder, result_days=1e6, image_days=1e300)) == (0, 0)


def test_a_turn_that_does_not_come_is_waited_for_once(
    recorder: Recorder, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_BUSY_TIMEOUT_MS", 700)
    late = Recorder(Database.open(database_url, tmp_path))
    with recorder.database.writing():
        began_s = time.monotonic()
        waiting = [
            late.submit(
                lambda transaction: transaction.audit("t", actor="a", subject="s", details={})
            )
            for _ in range(12)
        ]
        for write in waiting:
            with pytest.raises(RecordsUnavailableError):
                write.result(timeout=20)
        assert time.monotonic() - began_s < 4.0
    late.close()


def test_a_writer_that_stands_still_loses_its_turn(
    new_postgresql_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_FROZEN_MS", 300)
    url = new_postgresql_database()
    still, other = Database.open(url, tmp_path), Database.open(url, tmp_path)

    def stand_still() -> None:
        with still.writing() as transaction:
            transaction.audit("t", actor="still", subject="s", details={})
            with other.writing() as second:
                second.audit("t", actor="other", subject="s", details={})
            transaction.audit("t", actor="still", subject="s", details={})

    with pytest.raises(RecordsUnavailableError):
        stand_still()
    with other.reading() as connection:
        assert [entry.actor for entry in read_entries(connection, 0, 9)] == ["other"]
    still.close()
    other.close()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        began_s = time.monotonic()
        with pytest.raises(DatabaseError):
            Database.open(url, tmp_path)
    assert time.monotonic() - began_s < 15.0


def test_a_fault_does_not_end_the_purge(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def purge_until_the_third_round() -> None:
        third = asyncio.Event()
        rounds = []

        async def fail(*_: object, **__: object) -> tuple[int, int]:
            rounds.append(1)
            if len(rounds) == 3:
                third.set()
            raise OverflowError("date value out of range")

        monkeypatch.setattr(retention, "purge_once", fail)
        purging = asyncio.create_task(
            retention.keep_purging(recorder, result_days=1, image_days=None)
        )
        await asyncio.wait_for(third.wait(), 60)
        assert not purging.done()
        purging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await purging

    monkeypatch.setattr(retention, "_BETWEEN_ROUNDS_S", 0.05)
    run(purge_until_the_third_round())
