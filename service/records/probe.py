"""Whether the records answer, asked often and at little cost."""

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Final

from sqlalchemy import select

from service.errors import NotReadyError, RecordsUnavailableError
from service.records.database import Database
from service.records.schema import ResultRow

_KEPT_S: Final = 2.0
_PATIENCE_S: Final = 1.0


class RecordsProbe:
    """Asks the database one small question at a time, and keeps the answer for two seconds.

    Its method belongs to the event loop's thread. The question is asked on a thread of its own: a
    database that hangs holds up neither the loop nor the readers, and is not asked again meanwhile.
    """

    def __init__(self, database: Database) -> None:
        """Take an open database."""
        self._database = database
        self._asked: Future[None] | None = None
        self._kept_until = 0.0

    async def check(self) -> None:
        """Wait for an answer, a second at most.

        Raises:
            NotReadyError: There is none, or it is an error.
        """
        asked = self._asked
        if asked is None or (asked.done() and time.monotonic() > self._kept_until):
            asked = self._asked = self._ask()
        try:
            await asyncio.wait_for(asyncio.wrap_future(asked), _PATIENCE_S)
        except TimeoutError as error:
            raise NotReadyError("The records database does not answer in time.") from error
        except RecordsUnavailableError as error:
            raise NotReadyError("The records database cannot be reached.") from error

    def _ask(self) -> Future[None]:
        done: Future[None] = Future()
        # Whoever stops waiting must not take the answer from the others.
        done.set_running_or_notify_cancel()

        def ask() -> None:
            failure: Exception | None = None
            try:
                with self._database.reading() as connection:
                    connection.execute(select(ResultRow.id).limit(1)).first()
            except Exception as error:  # noqa: BLE001  whatever it is belongs to those who wait
                failure = error
            self._kept_until = time.monotonic() + _KEPT_S
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

        threading.Thread(target=ask, name="karyon-records-probe", daemon=True).start()
        return done
