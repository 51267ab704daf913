"""The carrier: takes what is due from the outbox, makes the attempt, files what came of it.

```
 outbox ── claim (commit) ──► build ──► send ──► finish (commit)
    ▲                            killed anywhere here: the lease runs out,
    └────────────────────────────  and it is sent again under the same key
```
One task for each destination, so that one that hangs holds up no other.
"""

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import h11
import structlog
from sqlalchemy import Connection

from service.errors import KaryonError, UnknownResultError
from service.lims.adapters import Adapter
from service.lims.messages import Message
from service.lims.outcome import Outcome
from service.records.outbox import Delivery, claim, deliver, disable, give_up, is_due, retry
from service.records.outbox_queue import AttemptOutcome, QueueState, queue_state
from service.records.recorder import Recorder
from service.records.results import get_result, get_versions, standing_version

_MOST_AT_ONCE: Final = 8
_LEASE_MARGIN_S: Final = 2.0
_LONGEST_WAIT_S: Final = 6 * 3600.0
_LONGEST_ASKED_S: Final = 86_400.0
_PAUSE_AFTER_FAULT_S: Final = 5.0
_STOP_S: Final = 5.0
_COUNT_EVERY_S: Final = 15.0
_DAY_S: Final = 86_400.0
_logger = structlog.get_logger("karyon.delivery")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an attempt, and all of them together, may take.

    Attributes:
        timeout_s: Seconds that an attempt may take.
        first_retry_s: Seconds to the second attempt; each later wait is twice as long, up to six
            hours.
        give_up_days: Days after which a delivery that always failed is dead.
        poll_s: Seconds between two looks at the outbox.
    """

    timeout_s: float = 20.0
    first_retry_s: float = 5.0
    give_up_days: float = 3.0
    poll_s: float = 0.5

    def wait_s(self, attempts: int, asked_s: float | None) -> float:
        """Return the seconds to the next attempt: doubled each time, jittered, at least as asked.

        Args:
            attempts: Attempts so far, at least 1.
            asked_s: Retry-After of the receiver; more than a day counts as a day.
        """
        doubled_s = min(_LONGEST_WAIT_S, self.first_retry_s * 2.0 ** min(attempts - 1, 30))
        # Receivers that come back are not met by all the waiting deliveries in the same second.
        wait_s = doubled_s * random.uniform(0.75, 1.25)
        return wait_s if asked_s is None else max(wait_s, min(asked_s, _LONGEST_ASKED_S))

    def is_over(self, queued_utc: str) -> bool:
        """Tell whether a delivery that was queued at a time has been tried for long enough."""
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(queued_utc)
        return age.total_seconds() > self.give_up_days * _DAY_S


class DeliveryObserver(Protocol):
    """Who shows how deliveries go; `service.delivery_metrics.DeliveryMetrics` does."""

    def delivery_attempted(self, destination: str, outcome: AttemptOutcome) -> None:
        """An attempt has ended."""

    def outbox_counted(self, queues: Mapping[str, QueueState]) -> None:
        """So much has not reached the destinations, by their names."""


class Carrier:
    """Carries the outbox to its destinations while it is open."""

    def __init__(
        self,
        recorder: Recorder,
        adapters: Mapping[str, Adapter],
        patience: Patience,
        observer: DeliveryObserver,
    ) -> None:
        """Take the outbox and the adapters by the names of their destinations; see `start`."""
        self._recorder = recorder
        self._observer = observer
        self._adapters = adapters
        self._patience = patience
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._keep_carrying(name), name=f"karyon-deliver-{name}")
            for name in self._adapters
        ]
        self._tasks.append(asyncio.create_task(self._keep_counting(), name="karyon-outbox-count"))

    async def close(self) -> None:
        """Give running attempts a few seconds; what is cut off is sent again at the next start."""
        self._stopping.set()
        if not self._tasks:
            return
        _, running = await asyncio.wait(self._tasks, timeout=_STOP_S)
        for task in running:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_carrying(self, name: str) -> None:
        while not self._stopping.is_set():
            pause_s = self._patience.poll_s
            try:
                if await self._carry(name):
                    continue
            except KaryonError as error:
                _logger.warning("outbox not reached", destination=name, reason=str(error))
                pause_s = _PAUSE_AFTER_FAULT_S
            except Exception:
                # A fault of ours must not end deliveries until the next start.
                _logger.exception("delivery failed unexpectedly", destination=name)
                pause_s = _PAUSE_AFTER_FAULT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _keep_counting(self) -> None:
        """Tell the observer how much waits; another process may have put it there, or sent it."""

        def count(connection: Connection) -> dict[str, QueueState]:
            return {name: queue_state(connection, name) for name in self._adapters}

        while not self._stopping.is_set():
            try:
                self._observer.outbox_counted(await self._recorder.read(count))
            except KaryonError:
                pass  # The tasks that carry tell that the database is away.
            except Exception:
                _logger.exception("outbox not counted")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _COUNT_EVERY_S)

    async def _carry(self, name: str) -> int:
        """Make an attempt for what is due to a destination; return how many there were."""
        if not await self._recorder.read(lambda connection: is_due(connection, name)):
            return 0
        lease_s = self._patience.timeout_s + _LEASE_MARGIN_S
        claimed = await self._recorder.write(
            lambda transaction: claim(transaction, name, most=_MOST_AT_ONCE, lease_s=lease_s)
        )
        attempts = (self._attempt(self._adapters[name], item) for item in claimed)
        # All end before one that failed is told of: none goes on unwatched.
        for fault in await asyncio.gather(*attempts, return_exceptions=True):
            if fault is not None:
                raise fault
        return len(claimed)

    async def _attempt(self, adapter: Adapter, delivery: Delivery) -> None:
        outcome = await self._send(adapter, delivery)
        said = outcome.said
        came: AttemptOutcome = "dead"
        match outcome.kind:
            case "accepted":
                came = "delivered"
                await self._recorder.write(lambda change: deliver(change, delivery, said))
            case "gone":
                await self._recorder.write(lambda change: disable(change, delivery, said))
            case "retry" if not self._patience.is_over(delivery.queued_utc):
                came = "failed"
                after_s = self._patience.wait_s(delivery.attempts, outcome.retry_after_s)
                await self._recorder.write(
                    lambda change: retry(change, delivery, said, after_s=after_s)
                )
            case _:
                await self._recorder.write(lambda change: give_up(change, delivery, said))
        self._observer.delivery_attempted(delivery.destination, came)
        log = _logger.info if outcome.kind == "accepted" else _logger.warning
        log("delivery", id=delivery.id, destination=delivery.destination, outcome=said)

    async def _send(self, adapter: Adapter, delivery: Delivery) -> Outcome:
        try:
            message = await self._message(adapter, delivery)
        except UnknownResultError:
            return Outcome("refused", "the result was purged")
        except ValueError:
            return Outcome("refused", "the filed result cannot be reported")
        try:
            async with asyncio.timeout(self._patience.timeout_s):
                return await adapter.send(message)
        except TimeoutError:
            return Outcome("retry", "no answer in time")
        except (
            OSError,
            EOFError,
            asyncio.LimitOverrunError,
            h11.ProtocolError,
            UnicodeError,  # a host name that is none
        ) as error:
            # The type alone: the text may name hosts and addresses of the laboratory's network.
            return Outcome("retry", type(error).__name__)

    async def _message(self, adapter: Adapter, delivery: Delivery) -> Message:
        """Build the message on a reader's thread."""

        def build(connection: Connection) -> Message:
            result = get_result(connection, delivery.result_id)
            versions = get_versions(connection, delivery.result_id)
            state = standing_version(versions, delivery.version)
            return adapter.message(delivery.id, result, state)

        return await self._recorder.read(build)
