"""The bounded queue: places, room, order, Retry-After, deadlines, dropped and cancelled work."""

import asyncio
import threading
import time

import pytest

from service.api.room import Place
from service.api.work import WorkPool
from service.errors import ClientGoneError, DeadlineExceededError, OverloadedError
from service.inference.ticket import Ticket


class Recorder:
    def __init__(self) -> None:
        self.queue: tuple[int, int] = (0, 0)
        self.dropped = 0
        self.late = 0
        self.refusals: list[str] = []

    def queue_changed(self, waiting: int, working: int) -> None:
        self.queue = (waiting, working)

    def abandoned(self) -> None:
        self.dropped += 1

    def deadline_exceeded(self) -> None:
        self.late += 1

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)


def make_pool(
    recorder: Recorder | None = None,
    *,
    workers: int = 1,
    max_waiting: int = 1,
    max_queued_tiles: int = 1000,
    max_decoded_bytes: int = 10**9,
    expected_tile_s: float = 0.01,
) -> WorkPool:
    return WorkPool(
        workers=workers,
        max_waiting=max_waiting,
        observer=recorder or Recorder(),
        max_queued_tiles=max_queued_tiles,
        max_decoded_bytes=max_decoded_bytes,
        expected_tile_s=expected_tile_s,
    )


def test_work_runs_off_the_event_loop_and_returns() -> None:
    async def scenario() -> None:
        pool = make_pool()
        async with pool.room.place() as place:
            name = await pool.run(lambda _: threading.current_thread().name, place)
            aside = await pool.aside(lambda: threading.current_thread().name)
        assert name.startswith("karyon-work")
        assert aside.startswith("karyon-aside")
        pool.close()

    asyncio.run(scenario())


def test_one_more_than_the_places_is_refused_at_once() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = make_pool(recorder, expected_tile_s=4.0)
        gate = threading.Event()

        async def request() -> None:
            async with pool.room.place() as place:
                await pool.run(lambda _: gate.wait(10), place)

        first, second = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0.05)
        assert recorder.queue == (1, 1)
        with pytest.raises(OverloadedError) as refused:
            await request()
        # Two requests of one tile, 4 s each: 8 s, jittered up to half as long again.
        assert 8 <= refused.value.retry_after_s <= 12
        assert recorder.refusals == ["places"]
        gate.set()
        await asyncio.gather(first, second)
        assert recorder.queue == (0, 0)
        await request()
        pool.close()

    asyncio.run(scenario())


def test_batch_work_leaves_room_for_what_is_urgent() -> None:
    async def scenario() -> None:
        pool = make_pool(workers=1, max_waiting=10)
        held = [pool.room.place(Ticket("batch")) for _ in range(6)]
        for place in held:
            await place.__aenter__()
        with pytest.raises(OverloadedError, match="5 batch requests"):
            async with pool.room.place(Ticket("batch")):
                pass
        more = [pool.room.place(Ticket("routine")) for _ in range(4)]
        for place in more:
            await place.__aenter__()
        with pytest.raises(OverloadedError):
            async with pool.room.place(Ticket("routine")):
                pass
        async with pool.room.place(Ticket("stat")):
            pass
        for place in held + more:
            await place.__aexit__(None, None, None)
        pool.close()

    asyncio.run(scenario())


def test_tiles_and_decoded_bytes_are_bounded_and_one_large_image_is_not_locked_out() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = make_pool(
            recorder,
            max_waiting=20,
            max_queued_tiles=100,
            max_decoded_bytes=1000,
            expected_tile_s=0.5,
        )
        async with pool.room.place(Ticket("stat")) as first:
            await pool.room.admit(first, tiles=40, decoded_bytes=400)
            async with pool.room.place(Ticket("stat")) as second:
                with pytest.raises(OverloadedError, match="tiles") as refused:
                    await pool.room.admit(second, tiles=61, decoded_bytes=1)
                # 40 tiles and one unknown, half a second each, jittered.
                assert 20 <= refused.value.retry_after_s <= 31
                with pytest.raises(OverloadedError, match="decoded bytes"):
                    await pool.room.admit(second, tiles=1, decoded_bytes=601)
                await pool.room.admit(second, tiles=60, decoded_bytes=600)
                with pytest.raises(OverloadedError, match=r"^100 tiles are queued"):
                    async with pool.room.place(Ticket("stat")):
                        pass
        assert recorder.refusals == ["tiles", "decoded_bytes", "tiles"]
        async with pool.room.place() as alone:
            await pool.room.admit(alone, tiles=5000, decoded_bytes=10**6)
        pool.close()

    asyncio.run(scenario())


def test_the_drain_rate_is_measured() -> None:
    async def scenario() -> None:
        pool = make_pool(expected_tile_s=10.0)
        for _ in range(100):
            async with pool.room.place() as place:
                await pool.room.admit(place, tiles=4, decoded_bytes=1)
                await pool.run(lambda _: time.sleep(0.001), place)
        assert pool.room.retry_after_s() == 1
        pool.close()

    asyncio.run(scenario())


def test_waiting_work_whose_client_went_away_is_dropped_before_a_worker_is_free() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = make_pool(recorder)
        gate = threading.Event()
        started: list[float] = []

        async def busy() -> None:
            async with pool.room.place() as place:
                await pool.run(lambda _: gate.wait(10), place)

        async def waiting(gone: asyncio.Future[None]) -> None:
            async with pool.room.place() as place:
                await pool.run(started.append, place, gone=gone)

        first = asyncio.create_task(busy())
        await asyncio.sleep(0.05)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        second = asyncio.create_task(waiting(gone))
        await asyncio.sleep(0.05)
        assert recorder.queue == (1, 1)
        gone.set_result(None)
        with pytest.raises(ClientGoneError):
            await second
        assert recorder.queue == (0, 1)
        assert recorder.dropped == 1
        gate.set()
        await first
        assert started == []
        pool.close()

    asyncio.run(scenario())


def test_work_that_waits_past_its_deadline_never_runs() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = make_pool(recorder)
        gate = threading.Event()
        started: list[float] = []

        async def busy() -> None:
            async with pool.room.place() as place:
                await pool.run(lambda _: gate.wait(10), place)

        first = asyncio.create_task(busy())
        await asyncio.sleep(0.05)
        async with pool.room.place(Ticket(timeout_s=0.05)) as place:
            with pytest.raises(DeadlineExceededError):
                await pool.run(started.append, place)
        assert recorder.late == 1
        gate.set()
        await first
        assert started == []
        assert recorder.queue == (0, 0)
        pool.close()

    asyncio.run(scenario())


def test_urgent_requests_overtake_and_batch_work_is_not_starved() -> None:
    async def scenario() -> None:
        pool = make_pool(max_waiting=60)
        gate = threading.Event()
        order: list[str] = []

        async def request(name: str, ticket: Ticket) -> None:
            async with pool.room.place(ticket) as place:
                await pool.run(lambda _: order.append(name), place)

        async def busy(place: Place) -> None:
            await pool.run(lambda _: gate.wait(10), place)

        async with pool.room.place() as place:
            first = asyncio.create_task(busy(place))
            await asyncio.sleep(0.05)
            tasks = [
                asyncio.create_task(request(name, Ticket(name)))
                for name in ["batch"] * 6 + ["routine"] * 20 + ["stat"] * 3
            ]
            await asyncio.sleep(0.05)
            gate.set()
            await asyncio.gather(first, *tasks)
        assert order[:3].count("stat") >= 2
        assert "batch" in order[:10]
        assert len(order) == 29
        pool.close()

    asyncio.run(scenario())


def test_a_cancelled_request_keeps_its_worker_until_the_thread_is_done() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = make_pool(recorder)
        gate = threading.Event()

        async def request() -> None:
            async with pool.room.place() as place:
                await pool.run(lambda _: gate.wait(10), place)

        task, waiting = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0.05)
        task.cancel()
        waiting.cancel()
        await asyncio.sleep(0.05)
        assert recorder.queue == (0, 1)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recorder.queue == (0, 0)
        await request()
        pool.close()

    asyncio.run(scenario())


def test_errors_of_the_work_reach_the_request() -> None:
    async def scenario() -> None:
        pool = make_pool()

        def fail(queue_ms: float) -> None:
            assert queue_ms >= 0
            raise ZeroDivisionError

        async with pool.room.place() as place:
            with pytest.raises(ZeroDivisionError):
                await pool.run(fail, place)
        pool.close()

    asyncio.run(scenario())
