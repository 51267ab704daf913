"""Who gets the processors: decided by what waits and runs, never by a clock alone."""

import pytest

from service.inference.sharing import ProcessorSharing

SOON_S, LATER_S = 0.02, 5.0


def begin(sharing: ProcessorSharing, waiting: int, now_s: float) -> str | None:
    """Let one of `waiting` tiles begin, if it may; return what it got."""
    share = sharing.offer(waiting, now_s)
    if share is not None:
        sharing.begin(share, waiting - 1)
    return share


def test_a_tile_that_is_alone_gets_all_processors_each_time() -> None:
    sharing = ProcessorSharing(2)
    for turn in range(4):
        sharing.queued(1)
        assert begin(sharing, 1, turn * SOON_S) == "all"
        sharing.end(turn * SOON_S)


def test_nothing_begins_beside_a_run_with_all_processors() -> None:
    sharing = ProcessorSharing(2)
    sharing.queued(1)
    assert begin(sharing, 1, 0.0) == "all"
    sharing.queued(1)
    assert begin(sharing, 1, 0.1) is None
    sharing.end(0.2)
    # It was not alone: its owner and the other come again at the same time.
    assert begin(sharing, 1, 0.2) == "one"


def test_tiles_that_come_together_run_side_by_side_and_so_do_those_that_follow() -> None:
    sharing = ProcessorSharing(2)
    sharing.queued(2)
    assert [begin(sharing, 2, 0.0), begin(sharing, 1, 0.0)] == ["one", "one"]
    sharing.end(0.3)
    sharing.queued(1)
    assert begin(sharing, 1, 0.3) == "one"
    # Both end and their images are separated: the load is the same, though nothing runs.
    sharing.end(0.5)
    sharing.end(0.5)
    sharing.queued(1)
    assert begin(sharing, 1, 0.5 + SOON_S) == "one"


def test_after_a_lull_a_tile_is_alone_again() -> None:
    sharing = ProcessorSharing(2)
    sharing.queued(2)
    assert [begin(sharing, 2, 0.0), begin(sharing, 1, 0.0)] == ["one", "one"]
    sharing.end(0.3)
    sharing.end(0.3)
    sharing.queued(1)
    assert begin(sharing, 1, LATER_S) == "all"


def test_a_long_run_with_all_processors_is_no_lull() -> None:
    sharing = ProcessorSharing(2)
    sharing.queued(1)
    assert begin(sharing, 1, 0.0) == "all"
    sharing.queued(1)
    sharing.end(LATER_S)
    assert begin(sharing, 1, LATER_S) == "one"


@pytest.mark.parametrize(("lanes", "busy_from"), [(2, 2), (3, 3), (4, 3), (8, 6)])
def test_few_tiles_on_many_processors_run_one_after_the_other(lanes: int, busy_from: int) -> None:
    few, many = ProcessorSharing(lanes), ProcessorSharing(lanes)
    few.queued(busy_from - 1)
    many.queued(busy_from)
    assert begin(few, busy_from - 1, 0.0) == "all"
    assert begin(many, busy_from, 0.0) == "one"


def test_when_the_load_falls_runs_end_before_one_gets_all_processors() -> None:
    sharing = ProcessorSharing(8)
    sharing.queued(6)
    for waiting in range(6, 0, -1):
        assert begin(sharing, waiting, 0.0) == "one"
    for _ in range(5):
        sharing.end(1.0)
    sharing.queued(1)
    assert begin(sharing, 1, 1.0) == "one"  # six were there when the last run began
    sharing.end(1.1)
    sharing.queued(1)
    assert begin(sharing, 1, 1.1) is None
    sharing.end(1.2)
    assert begin(sharing, 1, 1.2) == "all"
