"""Orders on both databases: placing, cancelling, binding, holding, both at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.errors import (
    AmbiguousOrderError,
    DeliveryHeldError,
    InvalidParameterError,
    OrderConflictError,
    UnknownOrderError,
    UnusableOrderError,
)
from service.records.bindings import Settlement, file_orders
from service.records.database import Database
from service.records.orders import (
    Order,
    OrderRequest,
    get_order,
    list_orders,
    match_order,
    results_of,
)
from service.records.outbox import is_due, list_deliveries, resend
from service.records.recorder import Recorder
from service.records.result_list import ResultFilter, list_results
from service.records.results import NewResult, add_result, get_result
from service.records.retention import purge_orders, purge_results
from service.records.reviews import Decision, Review, add_review
from service.records.verification import verify

MakeResult = Callable[..., NewResult]
HOLD = Settlement(hold_unknown=True)
LATER = "9999-01-01T00:00:00.000Z"


@pytest.fixture
def orders(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An empty database with one destination, whose trail must verify in the end."""
    opened = Database.open(database_url, tmp_path, destinations=["a"])
    yield opened
    with opened.reading() as connection:
        assert verify(connection).problem is None
    opened.close()


def place(number: str = "1", accession: str = "S26-1", specimen: str | None = None) -> OrderRequest:
    return OrderRequest("place", f"O-{number}", accession, f"F-{number}", specimen)


def cancel(number: str = "1") -> OrderRequest:
    return OrderRequest("cancel", f"O-{number}")


def file(database: Database, *requests: OrderRequest) -> list[Order]:
    with database.writing() as transaction:
        return file_orders(transaction, requests, actor="key:1")


def status(database: Database, order: Order) -> str:
    with database.reading() as connection:
        return get_order(connection, order.id).status


def review(database: Database, result: NewResult, decision: Decision, count: int | None) -> None:
    asked = Review(decision, "r-1", "because", count)
    with database.writing() as transaction:
        add_review(transaction, result.id, asked, expected_version=None, actor="key:1")


def test_an_order_is_filed_once_however_often_it_comes(orders: Database) -> None:
    (first,) = file(orders, place(specimen="A1"))
    assert file(orders, place(specimen="A1")) == [first]
    with pytest.raises(OrderConflictError):
        file(orders, place(accession="S26-2", specimen="A1"))
    (gone,) = file(orders, cancel())
    assert (gone.id, gone.status) == (first.id, "cancelled")
    assert file(orders, cancel()) == [gone]
    # A repetition that was overtaken by its cancellation does not bring the order back.
    assert file(orders, place(specimen="A1")) == [gone]
    with pytest.raises(UnusableOrderError, match="nothing to cancel"):
        file(orders, cancel("7"))
    with pytest.raises(UnusableOrderError, match="accession"):
        file(orders, OrderRequest("place", "O-8"))


def test_a_message_is_filed_whole_or_not_at_all(orders: Database) -> None:
    with pytest.raises(UnusableOrderError):
        file(orders, place("1"), cancel("7"))
    assert page_of(orders) == ([], None)
    with orders.reading() as connection, pytest.raises(UnknownOrderError):
        get_order(connection, "0" * 32)


def page_of(
    database: Database, *, cursor: str | None = None, most: int = 100, **wanted: str
) -> tuple[list[str], str | None]:
    asked: dict[str, Any] = {"accession": None, "placer_number": None, "status": None, **wanted}
    with database.reading() as connection:
        page, following = list_orders(connection, **asked, cursor=cursor, most=most)
    return [order.placer_number for order in page], following


def test_orders_are_listed_page_by_page(orders: Database) -> None:
    file(orders, *(place(str(n), f"S26-{n % 2}") for n in range(5)), cancel("3"))
    seen, cursor = page_of(orders, most=2)
    while cursor is not None:
        page, cursor = page_of(orders, cursor=cursor, most=2)
        seen += page
    assert seen == ["O-4", "O-3", "O-2", "O-1", "O-0"]
    assert page_of(orders, accession="S26-1")[0] == ["O-3", "O-1"]
    assert page_of(orders, status="cancelled")[0] == ["O-3"]
    assert page_of(orders, placer_number="O-4")[0] == ["O-4"]
    with pytest.raises(InvalidParameterError):
        page_of(orders, cursor="?")


def test_the_status_follows_the_results(orders: Database, new_result: MakeResult) -> None:
    (order,) = file(orders, place(specimen="A1"))
    first, second = (new_result(accession="S26-1") for _ in range(2))
    with orders.writing() as transaction:
        add_result(transaction, first)
        add_result(transaction, new_result(accession="S26-2"))
        add_result(transaction, new_result())
    assert status(orders, order) == "in-progress"
    with orders.reading() as connection:
        recorded = get_result(connection, first.id)
        assert results_of(connection, [order.id]) == {order.id: [first.id]}
    assert (recorded.order_id, recorded.specimen_id) == ("O-1", "A1")
    assert recorded.order is not None
    assert recorded.order.filler_number == "F-1"
    review(orders, first, "accept", None)
    assert status(orders, order) == "completed"
    with pytest.raises(OrderConflictError, match="completed"):
        file(orders, cancel())
    with orders.writing() as transaction:
        add_result(transaction, second)
    assert status(orders, order) == "in-progress"
    review(orders, second, "reject", None)
    assert status(orders, order) == "completed"
    review(orders, first, "reject", None)
    assert status(orders, order) == "open"
    (gone,) = file(orders, cancel())
    with orders.writing() as transaction:
        add_result(transaction, new_result(accession="S26-1"))
    assert status(orders, gone) == "cancelled"


def test_of_several_orders_the_numbers_decide(orders: Database, new_result: MakeResult) -> None:
    one, two = file(orders, place("1", specimen="A1"), place("2", specimen="A2"))

    def match(order_number: str | None = None, specimen_id: str | None = None) -> Order | None:
        with orders.reading() as connection:
            return match_order(
                connection, "S26-1", order_number=order_number, specimen_id=specimen_id
            )

    with pytest.raises(AmbiguousOrderError):
        match()
    with pytest.raises(AmbiguousOrderError):
        match(specimen_id="A9")
    assert match("O-2") == match("F-2") == match(specimen_id="A2") == two
    assert match("O-7") is None
    result = new_result(accession="S26-1", specimen_id="A1")
    with orders.writing() as transaction:
        add_result(transaction, result)
    review(orders, result, "edit", 3)
    # One is completed, so an image that names neither is for the one that waits.
    assert match() == two
    file(orders, cancel("2"))
    assert match() is not None
    last = match("O-1", "A9")
    assert last is not None
    assert last.id == one.id


def test_a_held_result_waits_for_its_order(orders: Database, new_result: MakeResult) -> None:
    result = new_result(accession="S26-1", settlement=HOLD)
    with orders.writing() as transaction:
        add_result(transaction, result)
    review(orders, result, "edit", 5)
    file(orders, place("9", "S26-9"))
    with orders.reading() as connection:
        deliveries = list_deliveries(connection, status="held", most=10)
        assert len(deliveries) == 2
        assert not is_due(connection, "a")
        assert get_result(connection, result.id).held_utc is not None
        held, _ = list_results(connection, ResultFilter(held=True), cursor=None, most=10)
        assert [item.id for item in held] == [result.id]
    with pytest.raises(DeliveryHeldError), orders.writing() as transaction:
        resend(transaction, deliveries[0].id, actor="key:1")
    (order,) = file(orders, place())
    assert order.status == "completed"
    with orders.reading() as connection:
        assert is_due(connection, "a")
        assert {item.status for item in list_deliveries(connection, most=10)} == {"pending"}
        freed = get_result(connection, result.id)
        for wanted in (ResultFilter(order_id="O-1"), ResultFilter(held=False)):
            found, _ = list_results(connection, wanted, cursor=None, most=10)
            assert [item.id for item in found] == [result.id]
    assert (freed.held_utc, freed.order_id) == (None, "O-1")
    # The order that comes again releases nothing twice.
    file(orders, place())
    with orders.reading() as connection:
        assert len(list_deliveries(connection, most=10)) == 2


def test_a_held_result_of_several_orders_waits_until_one_is_left(
    orders: Database, new_result: MakeResult
) -> None:
    result = new_result(accession="S26-1", settlement=HOLD)
    with orders.writing() as transaction:
        add_result(transaction, result)
    file(orders, place("1"), place("2"))
    with orders.reading() as connection:
        assert get_result(connection, result.id).held_utc is not None
    file(orders, cancel("1"))
    with orders.reading() as connection:
        assert get_result(connection, result.id).order_id == "O-2"


def test_an_order_that_is_cancelled_at_that_moment_keeps_the_result_that_names_it(
    orders: Database, new_result: MakeResult
) -> None:
    (order,) = file(orders, place())
    file(orders, cancel())
    named = new_result(accession="S26-1", settlement=Settlement(order.id, hold_unknown=True))
    purged = new_result(accession="S26-1", settlement=Settlement("0" * 32, hold_unknown=True))
    with orders.writing() as transaction:
        add_result(transaction, named)
        add_result(transaction, purged)
    with orders.reading() as connection:
        assert results_of(connection, [order.id]) == {order.id: [named.id]}
        assert get_order(connection, order.id).status == "cancelled"
        assert get_result(connection, purged.id).held_utc is not None


def test_orders_are_purged_once_their_results_are(orders: Database, new_result: MakeResult) -> None:
    answered, empty = file(orders, place("1"), place("2", "S26-2"))
    with orders.writing() as transaction:
        add_result(transaction, new_result(accession="S26-1"))
        add_result(transaction, new_result(accession="S26-3", settlement=HOLD))
        assert purge_orders(transaction, LATER, 10) == 1
    with orders.reading() as connection:
        assert get_order(connection, answered.id).status == "in-progress"
        with pytest.raises(UnknownOrderError):
            get_order(connection, empty.id)
    with orders.writing() as transaction:
        assert purge_results(transaction, LATER, 10) == 2
        assert purge_orders(transaction, LATER, 10) == 1


def test_an_order_and_its_image_at_once_are_bound_once(
    database_url: str, tmp_path: Path, new_result: MakeResult
) -> None:
    """Two recorders on one database, as two processes have them, write at the same moment."""
    pairs = 20
    recorders = [
        Recorder(Database.open(database_url, tmp_path, destinations=["a"])) for _ in range(2)
    ]
    made = [new_result(accession=f"S26-{n}", settlement=HOLD) for n in range(pairs)]
    gate = threading.Barrier(2)

    def images() -> None:
        gate.wait()
        for result in made:
            recorders[0].submit(lambda change, result=result: add_result(change, result)).result()

    def messages() -> None:
        gate.wait()
        for number in range(pairs):
            request = place(str(number), f"S26-{number}")
            for _ in range(2):
                recorders[1].submit(
                    lambda change, request=request: file_orders(change, [request], actor="mllp")
                ).result()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(images), pool.submit(messages)]:
            done.result()
    with recorders[0].database.reading() as connection:
        bound = [get_result(connection, result.id).order for result in made]
        assert len({order.id for order in bound if order is not None}) == pairs
        deliveries = list_deliveries(connection, most=100)
        assert [item.status for item in deliveries] == ["pending"] * pairs
        for result in made:
            recorded = get_result(connection, result.id)
            assert recorded.held_utc is None
            assert recorded.order_id == f"O-{str(result.accession)[4:]}"
        assert verify(connection).problem is None
    for recorder in recorders:
        recorder.close()
