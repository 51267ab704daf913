"""The recorder: the database work of the service, off the event loop and many writes to a commit.

```
 write ─┐                                       ┌─ commit ─► every caller of the batch is told
 write ─┼─► queue ─► writer thread: one ────────┤
 write ─┘            transaction for all        └─ an error ─► each again, in a transaction alone
```
A commit costs a flush to the disk, whatever is in it; under load the writes that arrive while one
commit runs share the next.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from service.errors import RecordsUnavailableError
from service.records.audit import Transaction
from service.records.database import Database

Value = TypeVar("Value")

_MOST_WRITES_A_COMMIT: Final = 64
_READERS: Final = 4


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Transaction], Any]
    done: Future[Any]


class Recorder:
    """Runs reads and writes for the routes. Safe to use from any thread."""

    def __init__(self, database: Database) -> None:
        """Take an open database and start the writer thread; `close` ends both."""
        self.database = database
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="karyon-read")
        self._writer = threading.Thread(target=self._run, name="karyon-record", daemon=True)
        self._closed = False
        self._writer.start()

    def submit(self, work: Callable[[Transaction], Value]) -> Future[Value]:
        """Queue a write; the future is done once it is committed.

        Args:
            work: Called with a transaction. It may be called twice, the second time after the
                first was rolled back, so it must do nothing else than work on the transaction.

        Raises:
            RecordsUnavailableError: The recorder is closed.
        """
        if self._closed:
            raise RecordsUnavailableError("The records are closed.")
        done: Future[Value] = Future()
        self._queue.put(_Write(work, done))
        return done

    async def write(self, work: Callable[[Transaction], Value]) -> Value:
        """Run a write and wait for its commit; see `submit`.

        Raises:
            RecordsUnavailableError: It could not be committed; nothing of it was kept.
        """
        # A caller who goes away must not take a write back that shares its commit with others.
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    async def read(self, work: Callable[[Connection], Value]) -> Value:
        """Run a read on one of the reader threads.

        Raises:
            RecordsUnavailableError: The database does not answer.
        """

        def run() -> Value:
            with self.database.reading() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    def close(self) -> None:
        """Commit what is queued, then end the threads and the connections."""
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown(wait=True)
        self.database.close()

    def _run(self) -> None:
        open_ended = True
        while open_ended:
            first = self._queue.get()
            batch = [] if first is None else [first]
            open_ended = first is not None
            while open_ended and len(batch) < _MOST_WRITES_A_COMMIT:
                try:
                    write = self._queue.get_nowait()
                except queue.Empty:
                    break
                open_ended = write is not None
                if write is not None:
                    batch.append(write)
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Write]) -> None:
        began = False
        try:
            with self.database.writing() as transaction:
                began = True
                values = [write.work(transaction) for write in batch]
        except Exception as error:  # noqa: BLE001  whatever it is belongs to a caller
            # Where no transaction began, it is none of the writes; to wait again for each of them
            # would keep the last of 64 waiting for as many times.
            if len(batch) == 1 or not began:
                for write in batch:
                    write.done.set_exception(error)
                return
            # One write that fails must not take the others with it.
            for write in batch:
                self._commit([write])
            return
        for write, value in zip(batch, values, strict=True):
            write.done.set_result(value)
