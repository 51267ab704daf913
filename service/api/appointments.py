"""Makes Retry-After a promise: whoever comes back when told is let in.

Without it, a client that waits as told meets newcomers who took the place that it waited for. So
each refusal books a time, one after the other as fast as the queue drains, and `service.api.room`
lets in who comes at its time, before all newcomers:

    now        backlog done     +1 request    +1 request
     |---------------|---------------|-------------|------►
                     A may come      B             C

A visit is known by what it asks (`visit_of`), since a plain client keeps nothing but the seconds.
"""

import hashlib
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from service.api.quota import ANONYMOUS_ID, quota_key

HORIZON_S: Final = 600.0
"""Nobody is told to wait longer; beyond it nothing is promised either."""

MOST_OPEN: Final = 10_000
"""Promises that are kept in memory, some 3 MB; beyond them nothing is promised."""

# A client that waits in whole seconds, or counts from when the answer arrived, is a little late.
_GRACE_S = 30.0
_EARLY_S = 0.5
# About the last fifty promises tell how many come back. Times are never closer than a quarter of
# what all would need: who waits longer at the door for that was still let in.
_NEWEST_WEIGHT = 0.02
_LEAST_KEPT = 0.25
# What a repetition has in common with the first try, and with few others of the same caller.
_SAME_AGAIN = ("content-length", "accept", "user-agent")
_CREDENTIALS = ("x-api-key", "authorization")


def visit_of(request: Request, caller_id: str) -> str:
    """Return what a request has in common with its own repetition, as a short digest.

    An Idempotency-Key says it outright. A client that sends none repeats the same question with a
    body of the same length, which tells compressed images apart; two equal requests of one caller
    are one visit, made twice. A credential that nobody checked tells visits apart all the same.

    Args:
        request: The request; its body is not read.
        caller_id: `service.api.auth.Caller.id`.
    """
    headers = request.headers
    parts = [quota_key(caller_id, request), request.method, request.scope["path"]]
    if (key := headers.get("idempotency-key")) is not None:
        parts.append(key)
    else:
        parts.append(request.scope["query_string"].decode("latin-1"))
        parts.append(headers.get("content-type", "").partition(";")[0])
        names = _SAME_AGAIN if caller_id != ANONYMOUS_ID else (*_SAME_AGAIN, *_CREDENTIALS)
        parts += [headers.get(name, "") for name in names]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass(eq=False, slots=True)
class _Promise:
    """One visit that was told a time."""

    visit: str
    told_s: float


class AppointmentBook:
    """Who was told to come back, and when. Belongs to the event loop's thread."""

    def __init__(self, most_open: int = MOST_OPEN) -> None:
        """Make an empty book.

        Args:
            most_open: Promises kept in memory at once.
        """
        self._most_open = most_open
        self._open: OrderedDict[int, _Promise] = OrderedDict()
        self._of_visit: dict[str, deque[_Promise]] = {}
        self._full_until_s = 0.0
        self._kept = 1.0

    def __len__(self) -> int:
        return len(self._open)

    def book(self, visit: str, now_s: float, backlog_s: float, work_s: float) -> int | None:
        """Book the next free time for a visit.

        Args:
            visit: Who was refused, as `visit_of` tells.
            now_s: The time on a clock that never goes back.
            backlog_s: Seconds until all that is admitted should be done.
            work_s: Seconds that the refused request takes the whole service.

        Returns:
            Whole seconds from now, at least 1; None where all times up to the horizon are taken.
        """
        self._forget(now_s)
        # Not everybody comes back: times are as close as those that are kept will need.
        spacing_s = work_s * max(_LEAST_KEPT, self._kept)
        due_s = max(now_s + backlog_s, self._full_until_s) + spacing_s
        wait_s = max(1, math.ceil(due_s - now_s))
        if wait_s > HORIZON_S or len(self._open) >= self._most_open:
            return None
        self._full_until_s = due_s
        # What counts is what the client was told: rounded up, never earlier than the work is done.
        promise = _Promise(visit, now_s + wait_s)
        self._open[id(promise)] = promise
        self._of_visit.setdefault(visit, deque()).append(promise)
        return wait_s

    def claim(self, visit: str, now_s: float) -> bool:
        """Tell whether a visit comes at a time that it was told; each is good once."""
        self._forget(now_s)
        promises = self._of_visit.get(visit)
        if promises is None or promises[0].told_s - _EARLY_S > now_s:
            return False
        self._close(promises[0], kept=True)
        return True

    def _forget(self, now_s: float) -> None:
        """Drop the promises that nobody came for."""
        # They were told times in this order, but for what rounding up to seconds changed.
        while self._open:
            first = next(iter(self._open.values()))
            if first.told_s + _GRACE_S >= now_s:
                return
            self._close(first, kept=False)

    def _close(self, promise: _Promise, *, kept: bool) -> None:
        del self._open[id(promise)]
        promises = self._of_visit[promise.visit]
        promises.remove(promise)
        if not promises:
            del self._of_visit[promise.visit]
        self._kept += _NEWEST_WEIGHT * (kept - self._kept)
