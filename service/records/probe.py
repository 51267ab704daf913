"""Whether the records answer, asked often and at little cost."""

import asyncio
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from service.errors import KaryonError, NotReadyError
from service.records.database import Database
from service.records.schema import ResultRow

_FRESH_S: Final = 2.0
_KNOWN_S: Final = 5.0
_PATIENCE_S: Final = 1.0
_LATE: Final = "The records database does not answer in time."
_AWAY: Final = "The records database cannot be reached."


@dataclass(frozen=True, slots=True)
class _Question:
    since_s: float
    answered: Future[None]


@dataclass(frozen=True, slots=True)
class _Answer:
    since_s: float
    problem: str | None


class RecordsProbe:
    """Asks the database one small question at a time; answers are good for two seconds.

    While an answer is no older than five, the next question runs behind it, so that frequent probes
    never wait for a busy database. The question is asked on a thread of its own: a database that
    hangs holds up neither the event loop, to which `check` belongs, nor the readers.
    """

    def __init__(self, database: Database) -> None:
        """Take an open database."""
        self._database = database
        self._question: _Question | None = None
        self._answer: _Answer | None = None

    async def check(self) -> None:
        """Return if the database answers; wait a second for it at most.

        Raises:
            NotReadyError: It does not, or with an error.
        """
        now_s = time.monotonic()
        if self._question is None and (
            self._answer is None or now_s - self._answer.since_s > _FRESH_S
        ):
            self._ask(now_s)
        question, answer = self._question, self._answer
        if question is not None:
            if now_s - question.since_s > _PATIENCE_S:
                raise NotReadyError(_LATE)
            if answer is None or now_s - answer.since_s > _KNOWN_S:
                try:
                    await asyncio.wait_for(asyncio.wrap_future(question.answered), _PATIENCE_S)
                except TimeoutError as error:
                    raise NotReadyError(_LATE) from error
                answer = self._answer
        if answer is not None and answer.problem is not None:
            raise NotReadyError(answer.problem)

    def _ask(self, now_s: float) -> None:
        answered: Future[None] = Future()
        # Whoever stops waiting must not take the answer from the others.
        answered.set_running_or_notify_cancel()

        def ask() -> None:
            problem: str | None = _AWAY
            try:
                with self._database.reading() as connection:
                    connection.execute(select(ResultRow.id).limit(1)).first()
                problem = None
            except KaryonError:
                pass  # It is told to whoever asks for readiness.
            finally:
                self._answer = _Answer(time.monotonic(), problem)
                self._question = None
                answered.set_result(None)

        self._question = _Question(now_s, answered)
        threading.Thread(target=ask, name="karyon-records-probe", daemon=True).start()
