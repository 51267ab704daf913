"""Errands: done once by whoever comes first, bounded, and never left behind."""

import threading
from collections.abc import Iterator

import pytest

from service.errands import Errand, Errands, Helpers, plan_helpers


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    made = Helpers(1)
    yield made
    made.close()


def current_thread() -> str:
    return threading.current_thread().name


def hold(helpers: Helpers) -> threading.Event:
    """Keep the one helper busy until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()

    helpers.begin(Errand(work))
    begun.wait()
    return release


def test_a_helper_does_what_is_sent(helpers: Helpers) -> None:
    done = threading.Event()

    def work() -> str:
        done.set()
        return current_thread()

    errand = Errands(helpers).send(work)
    done.wait()
    assert errand.result().startswith("karyon-helper")


def test_who_asks_does_it_where_the_helper_is_busy(helpers: Helpers) -> None:
    release = hold(helpers)
    assert Errands(helpers).send(current_thread).result() == current_thread()
    release.set()


def test_without_helpers_it_is_done_when_it_is_asked_for() -> None:
    done: list[str] = []
    errand = Errands().send(lambda: done.append(current_thread()))
    assert not done
    errand.result()
    errand.result()
    assert done == [current_thread()]


@pytest.mark.parametrize("threads", [0, 1])
def test_an_error_reaches_who_asks(threads: int) -> None:
    helpers = Helpers(threads)

    def work() -> None:
        raise ValueError("broken")

    errand = Errands(helpers).send(work)
    with pytest.raises(ValueError, match="broken"):
        errand.result()
    helpers.close()


def test_what_nobody_asks_for_is_not_begun_after_its_image(helpers: Helpers) -> None:
    release = hold(helpers)
    done: list[str] = []
    with Errands(helpers) as errands:
        errands.send(lambda: done.append(current_thread()))
    release.set()
    helpers.close()
    assert not done


def test_the_end_of_an_image_waits_for_an_errand_at_work(helpers: Helpers) -> None:
    begun, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()
        done.set()

    with Errands(helpers) as errands:
        errands.send(work)
        begun.wait()
        release.set()
    assert done.is_set()


def test_no_more_is_handed_over_than_there_is_room_for(helpers: Helpers) -> None:
    release = hold(helpers)
    errands = [Errand(current_thread) for _ in range(20)]
    for errand in errands:
        helpers.begin(errand)
    release.set()
    helpers.close()
    names = [errand.result() for errand in errands]
    by_helper = sum(name.startswith("karyon-helper") for name in names)
    assert 0 < by_helper < len(errands)
    assert names[by_helper:] == [current_thread()] * (len(errands) - by_helper)


def test_after_the_end_who_asks_does_it() -> None:
    helpers = Helpers(1)
    helpers.close()
    assert Errands(helpers).send(current_thread).result() == current_thread()


def test_helpers_need_a_processor_of_their_own() -> None:
    assert [plan_helpers(2, processors) for processors in (1, 2, 3, 16)] == [0, 1, 2, 2]
