"""The outbox on both databases: leases, order, fencing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import RecordsUnavailableError
from service.records.database import Database
from service.records.outbox import (
    claim,
    deliver,
    delivery_id,
    get_delivery,
    give_up,
    is_due,
    list_deliveries,
    resend,
    retry,
)
from service.records.results import NewResult, add_result
from service.records.retention import purge_results
from service.records.reviews import Review, add_review
from service.records.verification import verify

MakeResult = Callable[..., NewResult]


@pytest.fixture
def outbox(database_url: str, tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(database_url, tmp_path, destinations=["a", "b"])
    yield opened
    opened.close()


def test_each_state_is_queued_with_it_and_goes_in_order(
    outbox: Database, new_result: MakeResult
) -> None:
    result = new_result()
    with outbox.writing() as transaction:
        add_result(transaction, result)
        review = Review("accept", "r-1")
        add_review(transaction, result.id, review, expected_version=1, actor="key:1")
    with outbox.reading() as connection:
        assert len(list_deliveries(connection, most=10)) == 4
    with outbox.writing() as transaction:
        (first,) = claim(transaction, "a", most=8, lease_s=60)
        assert (first.id, first.attempts) == (delivery_id(result.id, 1, "a"), 1)
        assert claim(transaction, "a", most=8, lease_s=60) == []
        retry(transaction, first, "HTTP 503", after_s=60)
    with outbox.reading() as connection:
        # Version 2 waits for version 1, which waits for its retry; destination b is its own.
        assert not is_due(connection, "a")
        assert is_due(connection, "b")
    with outbox.writing() as transaction:
        deliver(transaction, first, "HTTP 200")
        (second,) = claim(transaction, "a", most=8, lease_s=60)
        assert second.version == 2
    with outbox.reading() as connection:
        assert verify(connection).problem is None


def test_a_result_that_is_rolled_back_is_not_delivered(
    outbox: Database, new_result: MakeResult
) -> None:
    result = new_result()

    def file_twice() -> None:
        with outbox.writing() as transaction:
            add_result(transaction, result)
            add_result(transaction, result)

    with pytest.raises(RecordsUnavailableError):
        file_twice()
    with outbox.reading() as connection:
        assert list_deliveries(connection, most=10) == []


def test_a_lease_that_ran_out_is_taken_over_and_fences_the_late(
    outbox: Database, new_result: MakeResult
) -> None:
    with outbox.writing() as transaction:
        add_result(transaction, new_result())
        (late,) = claim(transaction, "a", most=8, lease_s=0)
    with outbox.writing() as transaction:
        (present,) = claim(transaction, "a", most=8, lease_s=60)
        assert (present.id, present.attempts) == (late.id, 2)
        give_up(transaction, late, "HTTP 400")
        assert get_delivery(transaction.connection, late.id).status == "pending"
        # But what a receiver acknowledged it has, whoever sent it.
        deliver(transaction, late, "HTTP 200")
        assert get_delivery(transaction.connection, late.id).status == "delivered"
        give_up(transaction, present, "HTTP 400")
        assert get_delivery(transaction.connection, late.id).status == "delivered"


def test_a_purge_takes_the_deliveries_along(outbox: Database, new_result: MakeResult) -> None:
    with outbox.writing() as transaction:
        add_result(transaction, new_result())
        purge_results(transaction, "2030-01-01T00:00:00.000Z", 10)
        assert list_deliveries(transaction.connection, most=10) == []


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE deliveries SET status = 'delivered' WHERE status = 'pending'", "called delivered"),
        ("DELETE FROM deliveries WHERE destination = 'b'", "removed without a purge"),
        ("UPDATE deliveries SET destination = 'c' WHERE destination = 'b'", "altered"),
        ("UPDATE deliveries SET version = 2", "altered"),
        ("UPDATE deliveries SET sequence = sequence + 90", "altered"),
        ("UPDATE deliveries SET id = 'f' || substr(id, 2) WHERE destination = 'a'", "put in"),
    ],
)
def test_verify_finds_deliveries_that_were_taken_out_or_called_done(
    outbox: Database, new_result: MakeResult, statement: str, problem: str
) -> None:
    with outbox.writing() as transaction:
        gone = new_result(created_utc="2020-01-01T00:00:00.000Z")
        add_result(transaction, gone)
        (late, _) = claim(transaction, "a", most=1, lease_s=0) + claim(
            transaction, "b", most=1, lease_s=0
        )
        purge_results(transaction, "2021-01-01T00:00:00.000Z", 10)
        deliver(transaction, late, "HTTP 200")
        result = new_result(id="0" * 31 + "e")
        add_result(transaction, result)
        (sent,) = claim(transaction, "a", most=1, lease_s=60)
        deliver(transaction, sent, "HTTP 200")
    with outbox.reading() as connection:
        assert verify(connection).problem is None
    with outbox.writing() as transaction:
        resend(transaction, sent.id, actor="key:1")
    with outbox.reading() as connection:
        assert verify(connection).problem is None
    with outbox.writing() as transaction:
        transaction.connection.exec_driver_sql(statement)
    with outbox.reading() as connection:
        assert problem in str(verify(connection).problem)
