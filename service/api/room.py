"""What may be admitted at once: places, tiles, decoded bytes; and who is told to come back when.

```
             newcomer                               who comes back as told
 door     ─► a place, or 503 and a time to come  ─► a place from the reserve, or waits for one
 header   ─► tiles and bytes, or the same        ─► tiles and bytes from the reserve, or waits
```
A place is taken before the body is read, so that the bodies in memory are bounded too; tiles and
bytes are known from the image's header, before anything is decoded. Whoever comes at the time that
it was told is never refused again: the reserve lies above what newcomers may fill, and where even
that is taken it waits, and no newcomer of its class is let in before it.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from service.api.appointments import HORIZON_S, AppointmentBook
from service.api.drain_rate import DrainRate
from service.api.line import Line
from service.errors import ClientGoneError, DeadlineExceededError, OverloadedError
from service.inference.ticket import Priority, Ticket

# What those who come back as told may use above the bounds of their class, as a share of all.
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


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all admitted requests may hold together.

    Attributes:
        places: Requests that wait or upload beyond those at work.
        tiles: Tiles of all that are not answered.
        decoded_bytes: Bytes of their decoded images.
    """

    places: int
    tiles: int
    decoded_bytes: int


@dataclass(eq=False, slots=True)
class Place:
    """A request's place in the queue.

    Attributes:
        ticket: Its class and deadline.
        visit: What it has in common with its repetition; None where nothing is promised.
        expected: Whether it comes at the time that it was told.
        tiles: Tiles that it will run; 0 until its image's header is read.
        decoded_bytes: Bytes of its decoded image; 0 until then.
        stands: Whether it still waits for room for them.
    """

    ticket: Ticket = field(default_factory=Ticket)
    visit: str | None = None
    expected: bool = False
    tiles: int = 0
    decoded_bytes: int = 0
    stands: bool = False

    @property
    def share(self) -> float:
        """What of the bounds may be filled with it; above 1 for some that were told to come."""
        return _SHARES[self.ticket.priority] + (_RESERVE if self.expected else 0.0)


class Room:
    """Counts what is admitted. All methods belong to the event loop's thread."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        workers: int,
        rate: DrainRate,
        observer: QueueObserver,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            bounds: How much may be admitted.
            workers: Requests at work at once; they need no place of the bound.
            rate: Tells how fast work is done.
            observer: Told of each refusal, and of who did not wait.
            changed: Called after each change of what is admitted.
            clock: Seconds that never go back, for the times that are told.
        """
        self._bounds = bounds
        self._workers = workers
        self._rate = rate
        self._observer = observer
        self._changed = changed
        self._clock = clock
        self._appointments = AppointmentBook()
        self._admitted: set[Place] = set()
        self._door = Line()
        self._header = Line()

    def __len__(self) -> int:
        """Count the requests that are admitted, or wait at the door."""
        return len(self._admitted) + len(self._door)

    def retry_after_s(self, visit: str | None = None, tiles: int = 0) -> int:
        """Return the whole seconds after which a visit is let in, by the measured drain rate.

        For nobody in particular, or where all times are taken, it is when all work admitted now
        should be done, or the longest wait, with up to half as long again at random: that keeps
        refused clients from coming back all at once.

        Args:
            visit: Who was refused.
            tiles: Tiles that it needs, where its header was read.
        """
        # A request whose header is not read yet has one tile at least.
        queued = sum(max(1, place.tiles) for place in self._admitted) + len(self._door)
        backlog_s = self._rate.seconds_for(max(1, queued))
        if visit is None:
            return max(1, math.ceil(min(HORIZON_S, backlog_s * random.uniform(1.0, 1.5))))
        work_s = self._rate.seconds_for(tiles) if tiles else self._rate.seconds_a_request()
        told_s = self._appointments.book(visit, self._clock(), backlog_s, work_s)
        return math.ceil(HORIZON_S * random.uniform(0.67, 1.0)) if told_s is None else told_s

    @asynccontextmanager
    async def place(
        self, ticket: Ticket | None = None, visit: str | None = None
    ) -> AsyncGenerator[Place]:
        """Hold a place in the queue for the `async with` body.

        Args:
            ticket: Class and deadline; default routine work without a deadline.
            visit: Who asks, so that a refusal can be kept for when it comes back.

        Raises:
            OverloadedError: All places of the class are taken; carries `retry_after_s`.
            DeadlineExceededError: It came as told, and its own time ran out at the door.
        """
        place = Place(Ticket() if ticket is None else ticket, visit)
        place.expected = visit is not None and self._appointments.claim(visit, self._clock())
        try:
            if place.expected:
                await self._stand(self._door, lambda: self._take_place(place), place)
            else:
                self._check_newcomer(place)
                self._admitted.add(place)
            self._changed()
            yield place
        finally:
            self._admitted.discard(place)
            self._door.move()
            self._header.move()
            self._changed()

    async def admit(
        self,
        place: Place,
        *,
        tiles: int,
        decoded_bytes: int,
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        """Book what the image will need, before it is decoded.

        An image larger than a whole bound is taken where nothing else is booked: otherwise it
        would be told to come again for ever.

        Args:
            place: The request's place.
            tiles: Tiles by the image's header.
            decoded_bytes: Bytes of its pixels once decoded.
            gone: Done when the client went away.

        Raises:
            OverloadedError: There is no room now; carries `retry_after_s`.
            ClientGoneError: It came as told, and did not wait.
            DeadlineExceededError: It came as told, and its own time ran out.
        """
        if place.expected:
            place.tiles, place.decoded_bytes, place.stands = tiles, decoded_bytes, True
            await self._stand(self._header, lambda: self._take_room(place), place, gone)
        else:
            self._check_room(place, tiles, decoded_bytes)
            place.tiles, place.decoded_bytes = tiles, decoded_bytes

    async def _stand(
        self,
        line: Line,
        take: Callable[[], bool],
        place: Place,
        gone: asyncio.Future[None] | None = None,
    ) -> None:
        """Let a request wait that came as it was told."""
        ticket = place.ticket
        if await line.stand(take, ticket.priority, timeout_s=ticket.remaining_s(), gone=gone):
            return
        if gone is not None and gone.done():
            self._observer.abandoned()
            raise ClientGoneError("The client closed the connection.")
        self._observer.deadline_exceeded()
        raise DeadlineExceededError("The request's own time ran out before there was room.")

    def _check_newcomer(self, place: Place) -> None:
        """Refuse who finds the places of its class taken, or all tiles."""
        waiting = math.ceil(self._bounds.places * place.share)
        if len(self) >= self._workers + waiting:
            message = f"{waiting} {place.ticket.priority} requests may wait, and do."
            self._refuse(place, "places", message)
        tiles = sum(other.tiles for other in self._admitted)
        if tiles >= self._bounds.tiles:
            self._refuse(place, "tiles", f"{tiles} tiles are queued.")

    def _check_room(self, place: Place, tiles: int, decoded_bytes: int) -> None:
        """Refuse a newcomer's image; what stands in the line for room is counted as booked."""
        for reason, amount, booked, bound in (
            ("tiles", tiles, sum(p.tiles for p in self._admitted), self._bounds.tiles),
            (
                "decoded_bytes",
                decoded_bytes,
                sum(p.decoded_bytes for p in self._admitted),
                self._bounds.decoded_bytes,
            ),
        ):
            if booked and booked + amount > place.share * bound:
                name, whose = reason.replace("_", " "), place.ticket.priority
                message = (
                    f"{booked} {name} are queued; with the {amount} of this image they would pass"
                    f" the bound of {math.floor(place.share * bound)} for {whose} work."
                )
                self._refuse(place, reason, message, tiles)

    def _take_place(self, place: Place) -> bool:
        """Let in who came as told, if there is a place."""
        if len(self._admitted) >= self._workers + math.ceil(self._bounds.places * place.share):
            return False
        self._admitted.add(place)
        return True

    def _take_room(self, place: Place) -> bool:
        """Book the tiles and bytes of who came as told, if there is room."""
        booked = [other for other in self._admitted if other.tiles and not other.stands]
        tiles = sum(other.tiles for other in booked) + place.tiles
        decoded_bytes = sum(other.decoded_bytes for other in booked) + place.decoded_bytes
        place.stands = bool(booked) and (
            tiles > place.share * self._bounds.tiles
            or decoded_bytes > place.share * self._bounds.decoded_bytes
        )
        return not place.stands

    def _refuse(self, place: Place, reason: str, message: str, tiles: int = 0) -> NoReturn:
        self._observer.refused(reason)
        raise OverloadedError(message, retry_after_s=self.retry_after_s(place.visit, tiles))
