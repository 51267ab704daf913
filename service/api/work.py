"""The one owned, bounded pool in which images are decoded, segmented and encoded.

```
             max_waiting places                     workers threads
 request ──► [ uploading or waiting ] ──► semaphore ──► decode, segment, encode ──► answer
    │
    └─ no place left: 503, Retry-After = what the measured service time makes of the queue
```
A place is taken before the body is read, so that the bodies in memory are bounded too.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from service.errors import OverloadedError

Result = TypeVar("Result")

# Weight of the newest service time in the moving average: about the last ten requests count.
_NEWEST_WEIGHT = 0.2
_RETRY_AFTER_MAX_S = 120


class QueueObserver(Protocol):
    """Who shows the queue; `service.telemetry.Metrics` does."""

    def queue_changed(self, waiting: int, working: int) -> None:
        """The queue stands like this now."""

    def abandoned(self) -> None:
        """Work was dropped because its client went away."""


class ClientGoneError(Exception):
    """The client closed the connection before its work began; nobody reads an answer."""


class WorkPool:
    """A thread pool with a bounded queue before it.

    All methods belong to the event loop's thread, so that the counts need no lock.
    """

    def __init__(
        self,
        *,
        workers: int,
        max_waiting: int,
        observer: QueueObserver,
        expected_service_s: float = 1.0,
    ) -> None:
        """Make the pool; its threads start with the first work.

        Args:
            workers: Threads, thus requests worked on at once.
            max_waiting: Places for requests beyond those.
            observer: Told of each change of the queue.
            expected_service_s: First guess of the seconds one request keeps a worker.
        """
        self.workers = workers
        self.max_waiting = max_waiting
        self.service_s = expected_service_s
        self._observer = observer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="karyon-work")
        self._free = asyncio.Semaphore(workers)
        self._admitted = 0
        self._working = 0

    def _report(self) -> None:
        self._observer.queue_changed(self._admitted - self._working, self._working)

    def retry_after_s(self) -> int:
        """Whole seconds until all work admitted now should be done, from the drain rate, jittered.

        The queue drains at `workers / service_s`; the jitter (up to half as long again) keeps
        refused clients from coming back all at once.
        """
        drain_s = self.service_s * max(1, self._admitted) / self.workers
        jittered = drain_s * random.uniform(1.0, 1.5)
        return min(_RETRY_AFTER_MAX_S, max(1, math.ceil(jittered)))

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Hold a place in the queue for the `async with` body.

        Raises:
            OverloadedError: All places are taken; carries `retry_after_s`.
        """
        if self._admitted >= self.workers + self.max_waiting:
            raise OverloadedError(
                f"All {self.workers} workers are busy and {self.max_waiting} requests wait.",
                retry_after_s=self.retry_after_s(),
            )
        self._admitted += 1
        self._report()
        try:
            yield
        finally:
            self._admitted -= 1
            self._report()

    async def run(
        self,
        work: Callable[[float], Result],
        *,
        client_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> Result:
        """Run `work(queue_ms)` on a worker and return its result; hold a `place()` meanwhile.

        Args:
            work: Blocking function; gets the milliseconds it waited for a worker.
            client_gone: Asked once a worker is free; True drops the work.

        Raises:
            ClientGoneError: The client did not wait.
        """
        queued_s = time.perf_counter()
        async with self._free:
            if client_gone is not None and await client_gone():
                self._observer.abandoned()
                raise ClientGoneError
            start_s = time.perf_counter()
            future = asyncio.get_running_loop().run_in_executor(
                self._executor, work, (start_s - queued_s) * 1000.0
            )
            self._working += 1
            self._report()
            try:
                # A thread cannot be cancelled: a cancelled request must go on holding its worker
                # until the thread is done, or more than `workers` images would be in memory.
                return await _finish(future)
            finally:
                elapsed_s = time.perf_counter() - start_s
                self.service_s += _NEWEST_WEIGHT * (elapsed_s - self.service_s)
                self._working -= 1
                self._report()

    def close(self) -> None:
        """Give up the threads; running work ends first, waiting work is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)


async def _finish(future: asyncio.Future[Result]) -> Result:
    """Await `future` to its end even when the awaiting task is cancelled meanwhile."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
