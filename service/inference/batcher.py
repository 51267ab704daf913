"""The engine: tiles of all requests in one queue, one dispatcher a session, real batches on a GPU.

```
 request A  ─ tiles ─►┐                        ┌─► lane 1 ─► session.run ─► maps to A, B
 request B  ─ tiles ─►├─ queue, by class and ──┤
 request C  ─ tiles ─►┘  age; one shape a run  └─► lane 2 ...
```
A lane is a thread that runs the model. On a GPU one lane takes up to `max_batch_tiles` tiles of one
shape, whoever they belong to, and waits at most `batch_delay_ms` for those that may still come. On
a CPU a batch gains nothing and costs memory: each lane runs tile by tile, and a tile that is alone
gets the processors of all lanes (`service.inference.sharing`).

A request has two chunks in the queue at most: while one runs, the next is cut and the last pasted,
and a slide with hundreds of tiles cannot fill the queue before a single tile that comes later.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from service.errors import NotReadyError
from service.inference.fair_queue import FairQueue
from service.inference.runner import Tiles, TileSession
from service.inference.shapes import batch_size_for, batch_sizes
from service.inference.sharing import ProcessorSharing, Share
from service.inference.ticket import WEIGHTS, Ticket

_CHUNKS_AHEAD: Final = 1


class BatchObserver(Protocol):
    """Who counts what the engine does; `service.telemetry.Metrics` does."""

    def tiles_queued(self, change: int) -> None:
        """So many more tiles wait for a lane; negative where they wait no longer."""

    def batch_ran(self, tiles: int, duration_s: float) -> None:
        """One run of a model took so many tiles and seconds."""


class BatchTracer(Protocol):
    """Who traces the runs of a model; `service.tracing.Tracing` does."""

    def batch(self, tickets: Sequence[Ticket], tiles: int) -> AbstractContextManager[None]:
        """Open the span of a run of so many tiles of these requests."""


@dataclass(eq=False, slots=True)
class _Chunk:
    """Tiles that one request handed in together, and the promise of their maps."""

    tiles: Tiles
    ticket: Ticket
    maps: Future[Tiles] = field(default_factory=Future)
    done: list[Tiles | None] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = len(self.tiles)
        self.done = [None] * self.missing

    def fail(self, error: BaseException) -> None:
        """Break the promise; the first reason is kept."""
        if not self.maps.done():
            self.maps.set_exception(error)


@dataclass(eq=False, slots=True)
class _Entry:
    """One tile in the queue."""

    chunk: _Chunk
    index: int


class TileBatcher:
    """Runs the tiles of all requests on one session. Safe to call from several threads at once."""

    def __init__(
        self,
        session: TileSession,
        *,
        observer: BatchObserver,
        tracer: BatchTracer | None = None,
        lanes: int = 1,
        max_batch_tiles: int = 1,
        delay_s: float = 0.0,
        run_alone: Callable[[Tiles], Tiles] | None = None,
    ) -> None:
        """Start the dispatcher.

        Args:
            session: The model.
            observer: Told of the queue and of each run.
            tracer: Traces each run; default nobody.
            lanes: Runs of the model at once, each on a thread of its own.
            max_batch_tiles: Most tiles in one run; 1 runs tile by tile.
            delay_s: Longest wait for a batch to fill while other requests are at work.
            run_alone: Runs the model with the processors of all lanes; taken for a tile that is
                alone. None where there is no such way, or nothing to gain.
        """
        self.max_batch_tiles = max(1, max_batch_tiles)
        self._session = session
        self._observer = observer
        self._tracer = tracer
        self._delay_s = delay_s if self.max_batch_tiles > 1 else 0.0
        self._run_alone = run_alone
        self._sharing = ProcessorSharing(lanes) if run_alone is not None else None
        self._queue: FairQueue[_Entry] = FairQueue(WEIGHTS)
        self._changed = threading.Condition()
        self._streams = 0
        self._closing = False
        self._lanes = [
            threading.Thread(target=self._dispatch, name=f"karyon-lane-{lane}", daemon=True)
            for lane in range(max(1, lanes))
        ]
        for thread in self._lanes:
            thread.start()

    def warm_up(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Run the model once on every (height, width) and batch size that it may ever see."""
        runs = (
            [self._session.run] if self._run_alone is None else [self._session.run, self._run_alone]
        )
        for height_px, width_px in shapes:
            for size in batch_sizes(self.max_batch_tiles):
                tiles = np.zeros((size, height_px, width_px, 3), dtype=np.uint8)
                for run in runs:
                    run(tiles)

    def stream(self, chunks: Iterable[Tiles], ticket: Ticket) -> Iterator[Tiles]:
        """Yield the maps of each chunk, in order; see `TileRunner`.

        Raises:
            DeadlineExceededError: The ticket's deadline has passed.
            ClientGoneError: The ticket was given up.
            NotReadyError: The engine is closed.
        """
        ahead: deque[_Chunk] = deque()
        with self._at_work():
            try:
                for tiles in chunks:
                    ticket.check()
                    ahead.append(self._submit(tiles, ticket))
                    if len(ahead) > _CHUNKS_AHEAD:
                        yield ahead.popleft().maps.result()
                while ahead:
                    yield ahead.popleft().maps.result()
            finally:
                for chunk in ahead:
                    self._withdraw(chunk)

    def close(self) -> None:
        """Run what is queued, then end the lanes; later work is refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._lanes:
            thread.join()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Count a request that may still hand in tiles, for which a batch may wait."""
        with self._changed:
            self._streams += 1
        try:
            yield
        finally:
            with self._changed:
                self._streams -= 1
                self._changed.notify_all()

    def _submit(self, tiles: Tiles, ticket: Ticket) -> _Chunk:
        chunk = _Chunk(tiles, ticket)
        with self._changed:
            if self._closing:
                raise NotReadyError("The model is being unloaded.")
            for index in range(len(tiles)):
                self._queue.put(_Entry(chunk, index), ticket.priority)
            self._observer.tiles_queued(len(tiles))
            if self._sharing is not None:
                self._sharing.queued(len(self._queue))
            self._changed.notify_all()
        return chunk

    def _withdraw(self, chunk: _Chunk) -> None:
        """Drop what is still queued of a chunk that nobody waits for."""
        with self._changed:
            while self._queue.pop(lambda entry: entry.chunk is chunk) is not None:
                self._observer.tiles_queued(-1)

    def _dispatch(self) -> None:
        while (turn := self._next_turn()) is not None:
            share, batch = turn
            if batch:
                self._run(batch, share)

    def _next_turn(self) -> tuple[Share, list[_Entry]] | None:
        """Wait for tiles and a share of the processors; None once all work is done and closed."""
        with self._changed:
            while (share := self._offer()) is None:
                if self._closing and not self._queue:
                    return None
                self._changed.wait()
            first = self._take(None)
            if first is None:
                return share, []
            if self._sharing is not None:
                self._sharing.begin(share, len(self._queue))
            return share, self._fill(first)

    def _offer(self) -> Share | None:
        """Return what a run that began now would have; None where none may begin."""
        if not self._queue:
            return None
        if self._sharing is None:
            return "one"
        return self._sharing.offer(len(self._queue), time.monotonic())

    def _fill(self, first: _Entry) -> list[_Entry]:
        """Return a batch of one shape around its first tile, waiting for those that may come."""
        batch = [first]
        shape = first.chunk.tiles.shape[1:]
        last_s = time.monotonic() + self._delay_s
        while len(batch) < self.max_batch_tiles:
            entry = self._take(shape)
            if entry is not None:
                batch.append(entry)
                continue
            wait_s = last_s - time.monotonic()
            # Only requests without a tile in this batch can still add to it soon.
            expected = self._streams > len({id(entry.chunk.ticket) for entry in batch})
            if wait_s <= 0 or self._closing or not expected:
                break
            self._changed.wait(wait_s)
        return batch

    def _take(self, shape: tuple[int, ...] | None) -> _Entry | None:
        """Take the next tile that somebody still wants, of a shape or of any."""

        def fits(entry: _Entry) -> bool:
            return entry.chunk.tiles.shape[1:] == shape

        while (entry := self._queue.pop(None if shape is None else fits)) is not None:
            self._observer.tiles_queued(-1)
            if entry.chunk.maps.done():
                continue
            try:
                entry.chunk.ticket.check()
            except Exception as error:  # noqa: BLE001  handed on to the request that it ends
                entry.chunk.fail(error)
                continue
            return entry
        return None

    def _run(self, batch: list[_Entry], share: Share) -> None:
        """Run a batch and keep the promises that it completes."""
        start_s = time.perf_counter()
        tickets = [entry.chunk.ticket for entry in batch]
        span = self._tracer.batch(tickets, len(batch)) if self._tracer else nullcontext()
        run = self._run_alone if share == "all" and self._run_alone else self._session.run
        try:
            with span:
                maps = run(self._stack(batch))
        except BaseException as error:  # noqa: BLE001  handed on to the requests; the lane lives
            for entry in batch:
                entry.chunk.fail(error)
            return
        finally:
            self._end_share()
        self._observer.batch_ran(len(batch), time.perf_counter() - start_s)
        with self._changed:
            for entry, tile_maps in zip(batch, maps, strict=False):
                chunk = entry.chunk
                chunk.done[entry.index] = tile_maps
                chunk.missing -= 1
                if not chunk.missing and not chunk.maps.done():
                    chunk.maps.set_result(
                        np.stack([done for done in chunk.done if done is not None])
                    )

    def _end_share(self) -> None:
        """Give back the processors of a run that is over."""
        if self._sharing is None:
            return
        with self._changed:
            self._sharing.end(time.monotonic())
            self._changed.notify_all()

    def _stack(self, batch: list[_Entry]) -> Tiles:
        """Put tiles together, with blank ones up to the next size that is warm."""
        first = batch[0].chunk.tiles
        if len(batch) == 1:
            index = batch[0].index
            return first[index : index + 1]
        size = batch_size_for(len(batch), self.max_batch_tiles)
        tiles = np.zeros((size, *first.shape[1:]), dtype=np.uint8)
        for target, entry in zip(tiles, batch, strict=False):
            target[...] = entry.chunk.tiles[entry.index]
        return tiles
