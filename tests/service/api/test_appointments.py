from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from service.api.appointments import HORIZON_S, AppointmentBook, visit_of
from service.api.quota import ANONYMOUS_ID


def test_times_follow_each_other_and_are_good_once() -> None:
    book = AppointmentBook()
    waits = [book.book(name, 100.0, backlog_s=6.0, work_s=2.0) for name in "abc"]
    assert waits == [8, 10, 12]
    assert not book.claim("a", 107.0)
    assert book.claim("a", 108.0)
    assert not book.claim("a", 108.0)
    assert not book.claim("stranger", 120.0)
    assert book.claim("c", 125.0)


def test_what_is_told_is_rounded_up_and_counts_as_told() -> None:
    book = AppointmentBook()
    assert book.book("a", 0.25, backlog_s=1.0, work_s=0.1) == 2
    assert book.book("b", 0.25, backlog_s=1.0, work_s=0.1) == 2
    assert not book.claim("a", 1.5)
    assert book.claim("a", 2.25)
    assert book.claim("b", 32.25)


def test_a_visit_may_be_told_several_times_and_too_late_is_too_late() -> None:
    book = AppointmentBook()
    for _ in range(3):
        book.book("a", 0.0, backlog_s=0.0, work_s=10.0)
    assert book.claim("a", 10.0)
    assert book.claim("a", 51.0)  # the second, of 20 s, is past its grace: this is the third
    assert not book.claim("a", 51.0)
    book.book("b", 51.0, backlog_s=0.0, work_s=1.0)
    assert not book.claim("b", 500.0)
    assert len(book) == 0


def test_nothing_is_promised_beyond_the_horizon_or_the_bound_of_memory() -> None:
    book = AppointmentBook()
    waits = [book.book(str(number), 0.0, backlog_s=1.0, work_s=5.0) for number in range(200)]
    booked = [wait for wait in waits if wait is not None]
    assert len(booked) == (HORIZON_S - 1) // 5
    assert max(booked) <= HORIZON_S
    assert book.book("later", 60.0, backlog_s=1.0, work_s=1.0) is not None
    small = AppointmentBook(most_open=2)
    assert [small.book(name, 0.0, 0.0, 1.0) for name in "abc"] == [1, 2, None]
    assert small.claim("a", 1.0)
    assert small.book("c", 1.0, 0.0, 1.0) is not None
    assert len(small) == 2


def test_when_few_come_back_times_are_closer_but_not_without_bound() -> None:
    book = AppointmentBook()
    now_s = 0.0
    for number in range(300):
        now_s += 10.0
        book.book(str(number), now_s, backlog_s=0.0, work_s=8.0)
    assert book.book("next", now_s + 100.0, backlog_s=0.0, work_s=8.0) == 2


Steps = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),  # seconds since the step before
        st.sampled_from("abcde"),  # who is refused
        st.floats(0.0, 60.0),  # backlog
        st.floats(0.001, 20.0),  # its work
        st.floats(0.0, 29.0) | st.none(),  # how late it comes back, if it does
    ),
    max_size=60,
)


@given(Steps)
@settings(deadline=None)
def test_every_promise_is_good_from_the_told_second_to_the_end_of_its_grace(steps: object) -> None:
    """Whatever else happens, who comes when told is known, once; and nobody else is."""
    assert isinstance(steps, list)
    book = AppointmentBook()
    events: list[tuple[float, int, str, tuple[float, float, float | None]]] = []
    now_s = 0.0
    for number, (passed_s, visit, backlog_s, work_s, late_s) in enumerate(steps):
        now_s += passed_s
        events.append((now_s, number, visit, (backlog_s, work_s, late_s)))
    told: Counter[str] = Counter()
    returns: list[tuple[float, str]] = []
    for now_s, _, visit, (backlog_s, work_s, late_s) in events:
        for due_s, who in sorted(item for item in returns if item[0] <= now_s):
            returns.remove((due_s, who))
            assert book.claim(who, due_s)
        wait_s = book.book(visit, now_s, backlog_s, work_s)
        if wait_s is not None:
            assert isinstance(wait_s, int)
            assert 1 <= wait_s <= HORIZON_S
            assert wait_s >= backlog_s
            told[visit] += 1
            if late_s is not None:
                returns.append((now_s + wait_s + late_s, visit))
        assert not book.claim("never refused", now_s)
        assert len(book) <= sum(told.values())
    for due_s, who in sorted(returns):
        assert book.claim(who, due_s)
    last_s = max((event[0] for event in events), default=0.0)
    assert not book.claim("a", last_s + HORIZON_S + 31.0)
    assert len(book) == 0


def make_request(query: str = "", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http", "method": "POST", "path": "/segment", "query_string": query.encode(),
            "headers": pairs, "client": ("10.0.0.7", 5000), "server": ("karyon", 80),
            "scheme": "http",
        }
    )  # fmt: skip


def test_a_visit_is_known_by_what_it_asks() -> None:
    first = make_request(content_length="1000", content_type="image/png")
    again = make_request(content_length="1000", content_type="image/png", x_request_id="other")
    assert visit_of(first, ANONYMOUS_ID) == visit_of(again, ANONYMOUS_ID)
    others = [
        make_request(content_length="1001", content_type="image/png"),
        make_request("mask=labels", content_length="1000", content_type="image/png"),
        make_request(content_length="1000", content_type="image/png", accept="image/png"),
        make_request(content_length="1000", content_type="image/png", x_api_key="mine"),
    ]
    assert len({visit_of(request, ANONYMOUS_ID) for request in [first, *others]}) == 5
    assert visit_of(first, "key:1") != visit_of(first, "key:2")


@pytest.mark.parametrize("boundary", ["one", "another"])
def test_neither_a_boundary_nor_a_renewed_token_makes_another_visit(boundary: str) -> None:
    form = make_request(
        content_length="1000",
        content_type=f"multipart/form-data; boundary={boundary}",
        authorization=f"Bearer {boundary}",
    )
    same = make_request(
        content_length="1000", content_type="multipart/form-data", authorization="Bearer first"
    )
    assert visit_of(form, "oidc:me") == visit_of(same, "oidc:me")


def test_an_idempotency_key_says_it_outright() -> None:
    first = make_request(idempotency_key="k1", content_length="10")
    other_route = make_request(idempotency_key="k1", content_length="12")
    assert visit_of(first, "key:1") == visit_of(other_route, "key:1")
    assert visit_of(first, "key:1") != visit_of(make_request(idempotency_key="k2"), "key:1")
