"""The header Idempotency-Key: a repeated POST has the same answer, and happens once.

```
 50 requests      first ──► claim (database) ──► work ──► result + answer in one commit ──► answer
 with one key ──►
                  others ─► wait for it, outside the queue and with their bodies unread ──► replay
```
Requests of this process wait for each other in memory, those of other processes by asking the
database; the claim in the database decides. Only answers of 2xx are kept: after an error the key is
free, and a repetition tries again.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import Header
from starlette.requests import Request
from starlette.responses import Response

from service.errors import (
    IdempotencyKeyInFlightError,
    InvalidParameterError,
    RecordsUnavailableError,
)
from service.inference.ticket import Ticket
from service.records.audit import Transaction, canonical_json
from service.records.idempotency import (
    LEASE_S,
    Claimed,
    ClaimLostError,
    IdempotencyKey,
    StoredAnswer,
    claim,
    complete,
    release,
    renew,
)
from service.records.recorder import Recorder

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
_ASK_AGAIN_S: Final = 0.1
_MOST_WAITING: Final = 1024

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias=HEADER,
        # A structured-field string, or the same without quotes.
        pattern=r'^("[ !#-\[\]-~]{1,200}"|[!#-\[\]-~]{1,200})$',
        description=(
            "Makes a repetition safe: requests of one caller with one key are carried out once and"
            " answered alike. Use a new random key, such as a UUID, for each new request."
        ),
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ),
]
REPLAYED_HEADER: Final[dict[str, Any]] = {
    REPLAYED: {
        "description": "`true` where an answer given before is given again.",
        "schema": {"type": "string", "enum": ["true"]},
        "example": "true",
    }
}


class Turn:
    """One request's right to be carried out under its key; without a key it has it at once."""

    def __init__(
        self,
        keys: "IdempotencyKeys",
        request: Request,
        key: IdempotencyKey | None,
        until_s: float,
        ticket: Ticket,
    ) -> None:
        self._keys = keys
        self._request = request
        self._key = key
        self._until_s = until_s
        self._ticket = ticket
        self._owner = uuid.uuid4().hex
        self._fingerprint = ""
        self._renewal: asyncio.Task[None] | None = None

    async def begin(self, *payload: bytes | str) -> Response | None:
        """Claim the key for this request; call it once the body is read.

        Args:
            *payload: What the answer depends on beside method, path and query: the body's
                content, the representation.

        Returns:
            The answer to give at once, or None: carry the request out.

        Raises:
            IdempotencyKeyReusedError: The key was used for another request.
            IdempotencyKeyInFlightError: The other request with the key takes too long.
            DeadlineExceededError: It takes longer than this one's caller waits.
        """
        if self._key is None:
            return None
        self._fingerprint = await asyncio.to_thread(_fingerprint, self._request, payload)
        answer = await self._claim(self._key)
        return None if answer is None else _replay(answer)

    async def _claim(self, key: IdempotencyKey) -> StoredAnswer | None:
        def work(transaction: Transaction) -> Any:
            return claim(
                transaction,
                key,
                fingerprint=self._fingerprint,
                owner=self._owner,
                lifetime_s=self._keys.lifetime_s,
            )

        while True:
            outcome = await self._keys.recorder.write(work)
            if isinstance(outcome, StoredAnswer):
                return outcome
            if isinstance(outcome, Claimed):
                self._renewal = asyncio.create_task(self._keep_lease(key))
                return None
            self._ticket.check()
            if time.monotonic() > self._until_s:
                raise self._keys.in_flight_error()
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _keep_lease(self, key: IdempotencyKey) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            # A renewal that fails is tried again; if all do, the claim is lost, as it must be.
            with contextlib.suppress(RecordsUnavailableError):
                await self._keys.recorder.write(
                    lambda transaction: renew(transaction, key, self._owner)
                )

    async def file(self, write: Callable[[Transaction], StoredAnswer]) -> Response:
        """Commit what was done, with the answer under its key, and return the answer to give.

        Args:
            write: Files the result and returns what is to be answered; see `Recorder.submit`.
        """
        key = self._key

        def work(transaction: Transaction) -> StoredAnswer:
            answer = write(transaction)
            if key is not None:
                complete(transaction, key, self._owner, answer)
            return answer

        try:
            answer = await self._keys.recorder.write(work)
        except ClaimLostError:
            # This process stood still for longer than its lease; the other's answer is the one.
            if key is not None and (other := await self._claim(key)) is not None:
                return _replay(other)
            raise self._keys.in_flight_error() from None
        self._key = None
        await self._stop_renewal()
        return to_response(answer)

    async def end(self) -> None:
        """Give the key up if nothing was filed under it."""
        renewed = self._renewal is not None
        await self._stop_renewal()
        if self._key is not None and renewed:
            key = self._key
            with contextlib.suppress(RecordsUnavailableError):
                await self._keys.recorder.write(
                    lambda transaction: release(transaction, key, self._owner)
                )

    async def _stop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
            self._renewal = None


class IdempotencyKeys:
    """The keys in use in this process. All methods belong to the event loop's thread."""

    def __init__(self, recorder: Recorder, *, lifetime_s: float, wait_s: float) -> None:
        """Keep keys with a recorder.

        Args:
            recorder: Where answers are kept.
            lifetime_s: Seconds that they are kept.
            wait_s: Seconds that a request waits for another with its key, at most.
        """
        self.recorder = recorder
        self.lifetime_s = lifetime_s
        self._wait_s = wait_s
        self._running: dict[IdempotencyKey, asyncio.Event] = {}
        self._waiting = 0

    def in_flight_error(self) -> IdempotencyKeyInFlightError:
        """Return what a request is told that waited in vain."""
        return IdempotencyKeyInFlightError(
            "A request with this Idempotency-Key is still being carried out.", retry_after_s=5
        )

    @asynccontextmanager
    async def turn(
        self, request: Request, caller_id: str, header: str | None, ticket: Ticket | None = None
    ) -> AsyncGenerator[Turn]:
        """Wait until no other request of this process works under the key.

        Args:
            request: The request; its body is still unread.
            caller_id: Whose key it is.
            header: Value of the header.
            ticket: How long the caller waits; None for as long as the service lets it.

        Raises:
            IdempotencyKeyInFlightError: It takes too long, or too many wait.
            DeadlineExceededError: It takes longer than the caller waits.
        """
        until_s = time.monotonic() + self._wait_s
        ticket = ticket or Ticket()
        if header is None:
            yield Turn(self, request, None, until_s, ticket)
            return
        key = IdempotencyKey(caller_id, header.strip('"'))
        while (running := self._running.get(key)) is not None:
            await self._wait_for(running, until_s, ticket)
        done = self._running[key] = asyncio.Event()
        turn = Turn(self, request, key, until_s, ticket)
        try:
            yield turn
        finally:
            try:
                await turn.end()
            finally:
                del self._running[key]
                done.set()

    async def _wait_for(self, running: asyncio.Event, until_s: float, ticket: Ticket) -> None:
        if self._waiting >= _MOST_WAITING:
            raise self.in_flight_error()
        self._waiting += 1
        try:
            bound_s, own_s = until_s - time.monotonic(), ticket.remaining_s()
            async with asyncio.timeout(bound_s if own_s is None else min(bound_s, own_s)):
                await running.wait()
        except TimeoutError:
            ticket.check()
            raise self.in_flight_error() from None
        finally:
            self._waiting -= 1


def refuse_without_records(header: str | None) -> None:
    """Refuse a key where no answers are kept: a caller who relies on it would file twice.

    Raises:
        InvalidParameterError: There is a key.
    """
    if header is not None:
        raise InvalidParameterError(
            "This service keeps no records and cannot honour an Idempotency-Key; leave it out.",
            parameter=HEADER,
            place="header",
        )


def to_response(answer: StoredAnswer) -> Response:
    """Return an answer as it is given the first time."""
    return Response(
        answer.body,
        status_code=answer.status,
        media_type=answer.media_type,
        headers=dict(answer.headers),
    )


def _replay(answer: StoredAnswer) -> Response:
    response = to_response(answer)
    response.headers[REPLAYED] = "true"
    return response


def _fingerprint(request: Request, payload: tuple[bytes | str, ...]) -> str:
    """Digest what the answer depends on; the payload, since multipart boundaries always differ."""
    parts = [part.encode() if isinstance(part, str) else part for part in payload]
    described = [
        request.method,
        request.url.path,
        sorted(request.query_params.multi_items()),
        [hashlib.sha256(part).hexdigest() for part in parts],
    ]
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()
