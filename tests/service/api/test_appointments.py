from service.api.appointments import HORIZON_S, AppointmentBook


def test_times_follow_each_other_and_are_good_once() -> None:
    book = AppointmentBook()
    waits = [book.book(name, 100.0, backlog_s=6.0, request_s=2.0) for name in "abc"]
    assert waits == [8.0, 10.0, 12.0]
    assert not book.claim("a", 107.0)
    assert book.claim("a", 108.0)
    assert not book.claim("a", 108.0)
    assert not book.claim("stranger", 120.0)
    assert book.claim("c", 125.0)


def test_a_caller_may_have_several_and_too_late_is_too_late() -> None:
    book = AppointmentBook()
    for _ in range(3):
        book.book("a", 0.0, backlog_s=0.0, request_s=10.0)
    assert book.claim("a", 10.0)
    assert book.claim("a", 51.0)  # the second, of 20 s, is past its grace: this is the third
    assert not book.claim("a", 51.0)
    book.book("b", 51.0, backlog_s=0.0, request_s=1.0)
    assert not book.claim("b", 500.0)


def test_nothing_is_promised_beyond_the_horizon() -> None:
    book = AppointmentBook()
    waits = [book.book(str(number), 0.0, backlog_s=1.0, request_s=1.0) for number in range(200)]
    booked = [wait for wait in waits if wait is not None]
    assert len(booked) == HORIZON_S - 1
    assert max(booked) == HORIZON_S
    assert book.book("later", 60.0, backlog_s=1.0, request_s=1.0) is not None


def test_when_few_come_back_times_are_closer() -> None:
    book = AppointmentBook()
    now_s = 0.0
    for number in range(300):
        now_s += 10.0
        book.book(str(number), now_s, backlog_s=0.0, request_s=5.0)
    wait_s = book.book("next", now_s + 100.0, backlog_s=0.0, request_s=5.0)
    assert wait_s is not None
    assert 0.5 <= wait_s < 1.0


def test_a_flood_of_callers_is_forgotten_oldest_first() -> None:
    book = AppointmentBook()
    for number in range(10_001):
        book.book(str(number), 0.0, backlog_s=0.0, request_s=0.001)
    assert not book.claim("0", 11.0)
    assert book.claim("10000", 11.0)
