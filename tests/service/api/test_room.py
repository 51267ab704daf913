"""The promise of Retry-After: who comes back as told is let in, or waits, and is never refused."""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.drain_rate import DrainRate
from service.api.room import Bounds, Place, Room
from service.errors import ClientGoneError, DeadlineExceededError, OverloadedError
from service.inference.ticket import Priority, Ticket


class Recorder:
    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.dropped = 0
        self.late = 0

    def queue_changed(self, waiting: int, working: int) -> None:
        assert waiting >= 0
        assert working >= 0

    def abandoned(self) -> None:
        self.dropped += 1

    def deadline_exceeded(self) -> None:
        self.late += 1

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)


def make_room(
    recorder: Recorder | None = None,
    *,
    places: int = 10,
    tiles: int = 100,
    decoded_bytes: int = 10**9,
    workers: int = 1,
    tile_s: float = 1.0,
    clock: list[float] | None = None,
) -> Room:
    return Room(
        Bounds(places, tiles, decoded_bytes),
        workers=workers,
        rate=DrainRate(tile_s),
        observer=recorder or Recorder(),
        changed=lambda: None,
        clock=lambda: clock[0] if clock else 0.0,
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def knock(room: Room, visit: str) -> int:
    """Return 0 when let in, else the Retry-After."""
    try:
        async with room.place(visit=visit):
            return 0
    except OverloadedError as refused:
        return refused.retry_after_s


def test_who_comes_back_as_told_finds_a_place_that_newcomers_do_not_get() -> None:
    async def scenario() -> None:
        clock = [1000.0]
        room = make_room(places=2, tile_s=2.0, clock=clock)
        async with AsyncExitStack() as held:
            for _ in range(3):  # 3 requests of 2 s fill it
                await held.enter_async_context(room.place())
            waits = {name: await knock(room, name) for name in "abc"}
            assert waits == {"a": 8, "b": 10, "c": 12}
            clock[0] += 8
            assert await knock(room, "new") > 0
            assert await knock(room, "b") > 0  # too early
            assert await knock(room, "a") == 0
            assert await knock(room, "a") > 0  # good once
            clock[0] += 2
            assert await knock(room, "b") == 0
            clock[0] += 100
            assert await knock(room, "c") > 0  # far too late

    asyncio.run(scenario())


def test_where_even_the_reserve_is_taken_who_was_told_waits_at_the_door() -> None:
    async def scenario() -> None:
        clock = [1000.0]
        room = make_room(places=2, clock=clock)
        async with AsyncExitStack() as held:
            for _ in range(3):
                await held.enter_async_context(room.place())
            told = {name: await knock(room, name) for name in "abc"}
            clock[0] += max(told.values())
            await held.enter_async_context(room.place(visit="a"))  # the reserve of one place
            waiting = [asyncio.create_task(knock(room, name)) for name in "bc"]
            await settle()
            assert not any(task.done() for task in waiting)
            assert len(room) == 6
            # One leaves: its place is for those who wait, not for a newcomer.
            await held.aclose()
            assert await asyncio.gather(*waiting) == [0, 0]
        assert len(room) == 0

    asyncio.run(scenario())


def test_its_own_deadline_ends_the_wait_at_the_door() -> None:
    async def scenario() -> None:
        recorder, clock = Recorder(), [1000.0]
        room = make_room(recorder, places=0, clock=clock)
        async with room.place():
            clock[0] += await knock(room, "a")
            ticket = Ticket(timeout_s=0.02)
            with pytest.raises(DeadlineExceededError):
                async with room.place(ticket, "a"):
                    pass
        assert recorder.late == 1
        assert len(room) == 0

    asyncio.run(scenario())


async def expected_place(room: Room, clock: list[float], stack: AsyncExitStack, name: str) -> Place:
    """Return a place of somebody who was refused before, and came as told."""
    async with room.place(Ticket("stat"), name) as place:
        with pytest.raises(OverloadedError) as refused:
            await room.admit(place, tiles=10**6, decoded_bytes=1)
    clock[0] += refused.value.retry_after_s
    return await stack.enter_async_context(room.place(Ticket("stat"), name))


def test_an_image_that_was_told_to_come_waits_for_its_tiles_and_goes_before_newcomers() -> None:
    async def scenario() -> None:
        recorder, clock = Recorder(), [1000.0]
        room = make_room(recorder, tile_s=0.0001, clock=clock)
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(room.place(Ticket("stat")))
            await room.admit(running, tiles=90, decoded_bytes=1)
            place = await expected_place(room, clock, stack, "large")
            newcomer = await stack.enter_async_context(room.place(Ticket("stat")))
            entering = asyncio.create_task(room.admit(place, tiles=80, decoded_bytes=1))
            await settle()
            assert not entering.done()  # 170 of the 150 that it may fill
            with pytest.raises(OverloadedError, match="170 tiles"):
                await room.admit(newcomer, tiles=1, decoded_bytes=1)
            running.tiles = 0
            async with room.place(Ticket("stat")):  # any end of a request moves the lines
                pass
            await entering
            assert place.tiles == 80

            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            other = await expected_place(room, clock, stack, "leaves")
            leaving = asyncio.create_task(room.admit(other, tiles=80, decoded_bytes=1, gone=gone))
            await settle()
            gone.set_result(None)
            with pytest.raises(ClientGoneError):
                await leaving
            assert recorder.dropped == 1

    asyncio.run(scenario())


def test_a_refusal_for_room_books_time_for_the_tiles_that_were_asked() -> None:
    async def scenario() -> None:
        clock = [1000.0]
        room = make_room(tile_s=1.0, clock=clock)
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(room.place(Ticket("stat")))
            await room.admit(running, tiles=90, decoded_bytes=1)
            place = await stack.enter_async_context(room.place(Ticket("stat"), "a"))
            with pytest.raises(OverloadedError) as refused:
                await room.admit(place, tiles=50, decoded_bytes=1)
            # 90 tiles and one unknown are queued, then its own 50.
            assert refused.value.retry_after_s == 141

    asyncio.run(scenario())


Requests = st.lists(
    st.tuples(
        st.sampled_from(["stat", "routine", "batch"]),
        st.integers(1, 130),  # tiles; more than the bound of 100, too
        st.floats(0.0, 3.0),  # seconds to the next arrival
        st.floats(0.0, 25.0),  # how late it comes back
    ),
    min_size=5,
    max_size=60,
)


@given(Requests, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_no_load_makes_it_refuse_twice(
    requests: list[tuple[Priority, int, float, float]], seed: int
) -> None:
    """Every refused request comes back as told, whenever that is: none is refused again.

    Service times differ from what the drain rate believes, so that times are told too early.
    """
    shuffled = random.Random(seed)

    async def scenario() -> None:
        clock = [0.0]
        room = make_room(places=3, workers=2, tile_s=0.01, clock=clock)
        arrivals: list[tuple[float, int]] = []
        due_s = 0.0
        for number, (_, _, pause_s, _) in enumerate(requests):
            due_s += pause_s
            arrivals.append((due_s, number))
        told: set[int] = set()
        inside: dict[int, asyncio.Event] = {}

        async def visit(number: int) -> None:
            priority, tiles, _, late_s = requests[number]
            try:
                async with room.place(Ticket(priority), f"visit {number}") as place:
                    await room.admit(place, tiles=tiles, decoded_bytes=1)
                    served = inside[number] = asyncio.Event()
                    await served.wait()
                    del inside[number]
            except OverloadedError as refused:
                assert number not in told, "refused again"
                told.add(number)
                arrivals.append((clock[0] + refused.retry_after_s + late_s, number))

        running: list[asyncio.Task[None]] = []
        while arrivals or not all(task.done() for task in running):
            if arrivals:
                arrivals.sort()
                clock[0], number = arrivals[0][0], arrivals.pop(0)[1]
                running.append(asyncio.create_task(visit(number)))
            await settle()
            if inside and (not arrivals or shuffled.random() < 0.4):
                inside[shuffled.choice(sorted(inside))].set()
                await settle()
        await asyncio.gather(*running)
        assert len(room) == 0

    asyncio.run(scenario())
