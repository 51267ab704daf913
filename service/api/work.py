"""The one owned, bounded pool in which images are decoded, segmented and encoded.

```
        places        tiles, decoded bytes      class, age       workers threads
 request ──► [ uploading ] ──► [ waiting ] ──► fair queue ──► decode, segment, encode ──► answer
    │                │               │
    │                │               └─ deadline passed: 504. Client gone: dropped, counted
    └────────────────┴─ no room: 503, Retry-After from queued tiles / measured tiles a second
```
`service.api.room` says who is admitted.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.api.drain_rate import DrainRate
from service.api.room import Bounds, Place, QueueObserver, Room
from service.errands import Helpers, plan_helpers
from service.errors import ClientGoneError, DeadlineExceededError
from service.inference.fair_queue import FairQueue
from service.inference.ticket import WEIGHTS, Ticket

Result = TypeVar("Result")


class WorkPool:
    """A thread pool with a bounded queue before it.

    All methods belong to the event loop's thread, so that the counts need no lock.

    Attributes:
        workers: Threads.
        room: Where requests get their places.
        helpers: Who takes a part of a worker's work while a processor has nothing to do.
    """

    def __init__(
        self,
        *,
        workers: int,
        max_waiting: int,
        observer: QueueObserver,
        max_queued_tiles: int = 1024,
        max_decoded_bytes: int = 2 << 30,
        expected_tile_s: float = 1.0,
        helpers: int | None = None,
    ) -> None:
        """Make the pool; its threads start with the first work.

        Args:
            workers: Threads, thus requests worked on at once.
            max_waiting: Places for requests beyond those.
            observer: Told of each change of the queue.
            max_queued_tiles: Most tiles of all requests that are admitted and not answered.
            max_decoded_bytes: Most bytes of their decoded images.
            expected_tile_s: First guess of the seconds that one tile keeps the service busy.
            helpers: Threads beside the workers; default as many as the processors have room for.
        """
        self.workers = workers
        self._observer = observer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="karyon-work")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="karyon-aside")
        self.helpers = Helpers(plan_helpers(workers) if helpers is None else helpers)
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(WEIGHTS)
        self._rate = DrainRate(expected_tile_s)
        self._free = workers
        self.room = Room(
            Bounds(max_waiting, max_queued_tiles, max_decoded_bytes),
            workers=workers,
            rate=self._rate,
            observer=observer,
            changed=self._report,
        )

    async def run(
        self,
        work: Callable[[float], Result],
        place: Place,
        *,
        gone: asyncio.Future[None] | None = None,
    ) -> Result:
        """Run `work(queue_ms)` on a worker and return its result.

        Args:
            work: Blocking function; gets the milliseconds it waited for a worker.
            place: The request's place; its class and deadline hold.
            gone: Done when the client went away; drops the work while it waits.

        Raises:
            ClientGoneError: The client did not wait.
            DeadlineExceededError: The deadline passed before the work was done.
        """
        queued_s = time.perf_counter()
        try:
            await self._turn(place, gone)
            return await self._work(work, place, queued_s)
        except ClientGoneError:
            self._observer.abandoned()
            raise
        except DeadlineExceededError:
            self._observer.deadline_exceeded()
            raise

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Run something short (a look into the cache) on a thread that no image ever holds."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    def close(self) -> None:
        """Give up the threads; running work ends first, waiting work is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._aside.shutdown(wait=True, cancel_futures=True)
        self.helpers.close()

    async def _turn(self, place: Place, gone: asyncio.Future[None] | None) -> None:
        """Wait for a worker, no longer than somebody waits for the answer."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.put(turn, place.ticket.priority, max(1, place.tiles))
        self._grant()
        waited_for = {turn} if gone is None else {turn, gone}
        try:
            await asyncio.wait(
                waited_for,
                timeout=place.ticket.remaining_s(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if gone is not None and gone.done():
                place.ticket.give_up()
            _check_turn(place.ticket, turn)
        except BaseException:
            if not self._queue.discard(turn):  # its turn had come in the same moment
                self._release()
            raise

    async def _work(self, work: Callable[[float], Result], place: Place, queued_s: float) -> Result:
        start_s = time.perf_counter()
        self._rate.began(start_s)
        try:
            future = asyncio.get_running_loop().run_in_executor(
                self._executor, work, (start_s - queued_s) * 1000.0
            )
            # A thread cannot be cancelled: a cancelled request must go on holding its worker
            # until the thread is done, or more than `workers` images would be in memory.
            return await _finish(future)
        finally:
            others = self.workers - self._free > 1
            self._rate.ended(max(1, place.tiles), time.perf_counter(), busy=others)
            self._release()

    def _grant(self) -> None:
        """Give free workers to those whose turn it is."""
        while self._free and (turn := self._queue.pop()) is not None:
            self._free -= 1
            turn.set_result(None)
        self._report()

    def _release(self) -> None:
        self._free += 1
        self._grant()

    def _report(self) -> None:
        working = self.workers - self._free
        self._observer.queue_changed(len(self.room) - working, working)


def _check_turn(ticket: Ticket, turn: asyncio.Future[None]) -> None:
    """Let a request that waited no longer go on to its worker, if it got one in time."""
    ticket.check()
    if not turn.done():
        raise DeadlineExceededError("The request's own time ran out in the queue.")


async def _finish(future: asyncio.Future[Result]) -> Result:
    """Await `future` to its end even when the awaiting task is cancelled meanwhile."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
