from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.fair_queue import FairQueue

WEIGHTS = {"stat": 16, "routine": 4, "batch": 1}


def drain(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    taken = []
    while (item := queue.pop()) is not None:
        taken.append(item)
    return taken


def test_classes_share_by_weight_and_none_starves() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(WEIGHTS)
    for number in range(200):
        for name in ("batch", "routine", "stat"):
            queue.put((name, number), name)
    first = [name for name, _ in drain(queue)[:105]]
    shares = Counter(first)
    assert abs(shares["stat"] - 80) <= 1
    assert abs(shares["routine"] - 20) <= 1
    assert abs(shares["batch"] - 5) <= 1


def test_urgent_work_goes_before_a_backlog() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(WEIGHTS)
    for number in range(50):
        queue.put(("batch", number), "batch", cost=9)
    for _ in range(10):
        queue.pop()
    queue.put(("stat", 0), "stat")
    assert queue.pop() == ("stat", 0)


def test_an_idle_class_saves_up_no_turns() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue({"a": 1, "b": 1})
    for number in range(100):
        queue.put(("a", number), "a")
    for _ in range(60):
        queue.pop()
    for number in range(20):
        queue.put(("b", number), "b")
    next_names = Counter(name for name, _ in drain(queue)[:20])
    assert abs(next_names["a"] - next_names["b"]) <= 2


def test_only_what_is_wanted_is_taken_and_what_is_not_wanted_stays() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(WEIGHTS)
    items = [("routine", number) for number in range(4)]
    for item in items:
        queue.put(item, "routine")
    assert queue.pop(lambda item: item[1] == 2) == items[2]
    assert queue.pop(lambda item: item[1] == 9) is None
    assert queue.discard(items[0])
    assert not queue.discard(items[0])
    assert drain(queue) == [items[1], items[3]]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(WEIGHTS)), st.integers(1, 50)), max_size=60),
)
def test_everything_comes_out_once_and_in_order_within_its_class(
    arrivals: list[tuple[str, int]],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(WEIGHTS)
    for number, (name, cost) in enumerate(arrivals):
        queue.put((name, number), name, cost)
    assert len(queue) == len(arrivals)
    taken = drain(queue)
    assert len(queue) == 0
    assert sorted(number for _, number in taken) == list(range(len(arrivals)))
    for name in WEIGHTS:
        numbers = [number for other, number in taken if other == name]
        assert numbers == sorted(numbers)
