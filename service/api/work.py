"""The one owned, bounded pool in which images are decoded, segmented and encoded.

```
        places        tiles, decoded bytes      class, age       workers threads
 request ──► [ uploading ] ──► [ waiting ] ──► fair queue ──► decode, segment, encode ──► answer
    │                │               │
    │                │               └─ deadline passed: 504. Client gone: dropped, counted
    └────────────────┴─ no room: 503, Retry-After from queued tiles / measured tiles a second
```
A place is taken before the body is read, so that the bodies in memory are bounded too; the rest is
known from the image's header, before anything is decoded.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol, TypeVar

from service.api.appointments import HORIZON_S, AppointmentBook
from service.api.drain_rate import DrainRate
from service.errors import ClientGoneError, DeadlineExceededError, OverloadedError
from service.inference.fair_queue import FairQueue
from service.inference.ticket import WEIGHTS, Priority, Ticket

Result = TypeVar("Result")

# What those who come back as told may use above the bounds, as a share of them.
_RESERVE = 0.5
# How much of the queue each class may fill: batch work leaves room for what is more urgent.
_SHARES: Final[dict[Priority, float]] = {"stat": 1.0, "routine": 0.9, "batch": 0.5}


class QueueObserver(Protocol):
    """Who shows the queue; `service.telemetry.Metrics` does."""

    def queue_changed(self, waiting: int, working: int) -> None:
        """The queue stands like this now."""

    def abandoned(self) -> None:
        """Work was dropped because its client went away."""

    def deadline_exceeded(self) -> None:
        """Work was dropped because its caller's time ran out."""

    def refused(self, reason: str) -> None:
        """A request was refused before any work, for lack of this."""


@dataclass(eq=False, slots=True)
class Place:
    """A request's place in the queue.

    Attributes:
        ticket: Its class and deadline.
        caller: Who asks; None for nobody in particular.
        share: Share of the bounds that it may fill; above 1 for who comes back as told.
        tiles: Tiles that it will run; 0 until its image's header is read.
        decoded_bytes: Bytes of its decoded image; 0 until then.
    """

    ticket: Ticket = field(default_factory=Ticket)
    caller: str | None = None
    share: float = 1.0
    tiles: int = 0
    decoded_bytes: int = 0


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
        max_queued_tiles: int = 1024,
        max_decoded_bytes: int = 2 << 30,
        expected_tile_s: float = 1.0,
    ) -> None:
        """Make the pool; its threads start with the first work.

        Args:
            workers: Threads, thus requests worked on at once.
            max_waiting: Places for requests beyond those.
            observer: Told of each change of the queue.
            max_queued_tiles: Most tiles of all requests that are admitted and not answered.
            max_decoded_bytes: Most bytes of their decoded images.
            expected_tile_s: First guess of the seconds that one tile keeps the service busy.
        """
        self.workers = workers
        self.max_waiting = max_waiting
        self.max_queued_tiles = max_queued_tiles
        self.max_decoded_bytes = max_decoded_bytes
        self._observer = observer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="karyon-work")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="karyon-aside")
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(WEIGHTS)
        self._rate = DrainRate(expected_tile_s)
        self._appointments = AppointmentBook()
        self._free = workers
        self._admitted: set[Place] = set()

    def retry_after_s(self, caller: str | None = None) -> int:
        """Whole seconds after which a place is kept for the caller, by the measured drain rate.

        For nobody in particular, or where all times are taken, it is when all work admitted now
        should be done, or the longest wait, with up to half as long again at random: that keeps
        refused clients from coming back all at once.

        Args:
            caller: Who was refused.
        """
        # A request whose header is not read yet has one tile at least.
        tiles = sum(max(1, place.tiles) for place in self._admitted)
        backlog_s = self._rate.seconds_for(max(1, tiles))
        wait_s = backlog_s * random.uniform(1.0, 1.5)
        if caller is not None:
            request_s = self._rate.seconds_a_request()
            booked_s = self._appointments.book(caller, time.monotonic(), backlog_s, request_s)
            wait_s = HORIZON_S * random.uniform(0.67, 1.0) if booked_s is None else booked_s
        return max(1, math.ceil(min(HORIZON_S, wait_s)))

    @asynccontextmanager
    async def place(
        self, ticket: Ticket | None = None, caller: str | None = None
    ) -> AsyncGenerator[Place]:
        """Hold a place in the queue for the `async with` body.

        Args:
            ticket: Class and deadline; default routine work without a deadline.
            caller: Who asks, so that a refusal can keep a place for when it comes back.

        Raises:
            OverloadedError: All places of the class are taken; carries `retry_after_s`.
        """
        place = Place(Ticket() if ticket is None else ticket, caller)
        place.share = _SHARES[place.ticket.priority]
        if caller is not None and self._appointments.claim(caller, time.monotonic()):
            place.share += _RESERVE
        waiting = math.ceil(self.max_waiting * place.share)
        if len(self._admitted) >= self.workers + waiting:
            message = f"{waiting} {place.ticket.priority} requests may wait, and do."
            self._refuse(place, "places", message)
        tiles = sum(other.tiles for other in self._admitted)
        if tiles >= max(1.0, place.share) * self.max_queued_tiles:
            self._refuse(place, "tiles", f"{tiles} tiles are queued.")
        self._admitted.add(place)
        self._report()
        try:
            yield place
        finally:
            self._admitted.discard(place)
            self._report()

    def admit(self, place: Place, *, tiles: int, decoded_bytes: int) -> None:
        """Book what the image will need, before it is decoded.

        An image larger than a whole bound is taken where nothing else is booked: otherwise it
        would be told to come again for ever.

        Args:
            place: The request's place.
            tiles: Tiles by the image's header.
            decoded_bytes: Bytes of its pixels once decoded.

        Raises:
            OverloadedError: There is no room now; carries `retry_after_s`.
        """
        for reason, amount, booked, bound in (
            ("tiles", tiles, sum(p.tiles for p in self._admitted), self.max_queued_tiles),
            (
                "decoded_bytes",
                decoded_bytes,
                sum(p.decoded_bytes for p in self._admitted),
                self.max_decoded_bytes,
            ),
        ):
            if booked and booked + amount > place.share * bound:
                name, whose = reason.replace("_", " "), place.ticket.priority
                self._refuse(
                    place,
                    reason,
                    f"{booked} {name} are queued; with the {amount} of this image they would pass"
                    f" the bound of {math.floor(place.share * bound)} for {whose} work.",
                )
        place.tiles, place.decoded_bytes = tiles, decoded_bytes

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

    def _refuse(self, place: Place, reason: str, message: str) -> NoReturn:
        self._observer.refused(reason)
        raise OverloadedError(message, retry_after_s=self.retry_after_s(place.caller))

    def _report(self) -> None:
        working = self.workers - self._free
        self._observer.queue_changed(len(self._admitted) - working, working)


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
