"""The bounded queue: places, order, Retry-After, dropped and cancelled work."""

import asyncio
import threading
import time

import pytest

from service.api.work import ClientGoneError, WorkPool
from service.errors import OverloadedError


class Recorder:
    def __init__(self) -> None:
        self.queue: tuple[int, int] = (0, 0)
        self.dropped = 0

    def queue_changed(self, waiting: int, working: int) -> None:
        self.queue = (waiting, working)

    def abandoned(self) -> None:
        self.dropped += 1


def make_pool(workers: int = 1, max_waiting: int = 1, expected_service_s: float = 0.01) -> WorkPool:
    return WorkPool(
        workers=workers,
        max_waiting=max_waiting,
        observer=Recorder(),
        expected_service_s=expected_service_s,
    )


def test_work_runs_off_the_event_loop_and_returns() -> None:
    async def scenario() -> None:
        pool = make_pool()
        async with pool.place():
            name = await pool.run(lambda _: threading.current_thread().name)
        assert name.startswith("karyon-work")
        pool.close()

    asyncio.run(scenario())


def test_one_more_than_the_places_is_refused_at_once() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = WorkPool(workers=1, max_waiting=1, observer=recorder, expected_service_s=4.0)
        gate = threading.Event()

        async def request() -> None:
            async with pool.place():
                await pool.run(lambda _: gate.wait(10))

        first, second = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0.05)
        assert recorder.queue == (1, 1)
        with pytest.raises(OverloadedError) as refused:
            await request()
        # Two requests of 4 s on one worker: 8 s, jittered up to half as long again.
        assert 8 <= refused.value.retry_after_s <= 12
        gate.set()
        await asyncio.gather(first, second)
        assert recorder.queue == (0, 0)
        await request()
        pool.close()

    asyncio.run(scenario())


def test_the_service_time_is_measured() -> None:
    async def scenario() -> None:
        pool = make_pool(expected_service_s=10.0)
        for _ in range(40):
            async with pool.place():
                await pool.run(lambda _: time.sleep(0.001))
        assert pool.service_s < 0.1
        assert pool.retry_after_s() == 1
        pool.close()

    asyncio.run(scenario())


def test_work_whose_client_went_away_is_dropped() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = WorkPool(workers=1, max_waiting=1, observer=recorder)
        started: list[float] = []

        async def gone() -> bool:
            return True

        async with pool.place():
            with pytest.raises(ClientGoneError):
                await pool.run(started.append, client_gone=gone)
        assert started == []
        assert recorder.dropped == 1
        pool.close()

    asyncio.run(scenario())


def test_a_cancelled_request_keeps_its_worker_until_the_thread_is_done() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        pool = WorkPool(workers=1, max_waiting=1, observer=recorder)
        gate = threading.Event()

        async def request() -> None:
            async with pool.place():
                await pool.run(lambda _: gate.wait(10))

        task = asyncio.create_task(request())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert recorder.queue == (0, 1)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recorder.queue == (0, 0)
        pool.close()

    asyncio.run(scenario())


def test_errors_of_the_work_reach_the_request() -> None:
    async def scenario() -> None:
        pool = make_pool()

        def fail(queue_ms: float) -> None:
            assert queue_ms >= 0
            raise ZeroDivisionError

        async with pool.place():
            with pytest.raises(ZeroDivisionError):
                await pool.run(fail)
        pool.close()

    asyncio.run(scenario())
