"""Makes Retry-After a promise: whoever comes back when told finds a place.

Without it, a client that waits as told meets newcomers who took the place that it waited for. So
each refusal books a time, one after the other as fast as the queue drains, and a caller who comes
at that time may use a reserve above the bound that newcomers are held to:

    now        backlog done     +1 request    +1 request
     |---------------|---------------|-------------|------►
                     A may come      B             C
"""

from collections import OrderedDict, deque
from typing import Final

HORIZON_S: Final = 120.0
"""Nobody is told to wait longer; beyond it nothing is promised either."""

# A client that waits in whole seconds, or counts from when the answer arrived, is a little late.
_GRACE_S = 30.0
_EARLY_S = 0.5
_MOST_CALLERS = 10_000
# About the last fifty appointments tell how many are kept; some room is always left for all.
_NEWEST_WEIGHT = 0.02
_LEAST_KEPT = 0.1


class AppointmentBook:
    """Who was told to come back, and when. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._due_s: OrderedDict[str, deque[float]] = OrderedDict()
        self._full_until_s = 0.0
        self._kept = 1.0

    def book(self, caller: str, now_s: float, backlog_s: float, request_s: float) -> float | None:
        """Book the next free time for a caller.

        Args:
            caller: Who was refused.
            now_s: The time on a clock that never goes back.
            backlog_s: Seconds until all that is admitted should be done.
            request_s: Seconds that one request takes the whole service.

        Returns:
            Seconds from now; None where all times up to the horizon are taken.
        """
        self._forget(now_s)
        # Not everybody comes back: times are as close as those that are kept will need.
        spacing_s = request_s * max(_LEAST_KEPT, self._kept)
        due_s = max(now_s + backlog_s, self._full_until_s) + spacing_s
        if due_s > now_s + HORIZON_S:
            return None
        self._full_until_s = due_s
        self._due_s.setdefault(caller, deque()).append(due_s)
        self._due_s.move_to_end(caller)
        return due_s - now_s

    def claim(self, caller: str, now_s: float) -> bool:
        """Tell whether a caller comes at a time that it was given; each is good once."""
        self._forget(now_s)
        due_s = self._due_s.get(caller)
        while due_s and due_s[0] + _GRACE_S < now_s:
            due_s.popleft()
            self._count(kept=False)
        if not due_s or due_s[0] - _EARLY_S > now_s:
            return False
        due_s.popleft()
        self._count(kept=True)
        if not due_s:
            del self._due_s[caller]
        return True

    def _forget(self, now_s: float) -> None:
        """Drop the callers whose last time has passed, and the oldest beyond the bound."""
        while self._due_s:
            caller, due_s = next(iter(self._due_s.items()))
            if due_s and due_s[-1] + _GRACE_S >= now_s and len(self._due_s) < _MOST_CALLERS:
                return
            del self._due_s[caller]
            for _ in due_s:
                self._count(kept=False)

    def _count(self, *, kept: bool) -> None:
        self._kept += _NEWEST_WEIGHT * (kept - self._kept)
