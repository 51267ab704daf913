"""A quota for each caller: so many requests a minute, told in the RateLimit fields.

Source of the fields: IETF draft-ietf-httpapi-ratelimit-headers-10. 429 is the caller's own doing;
a service that is full answers 503 instead, whoever asks.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from service.errors import QuotaExceededError

ANONYMOUS_ID: Final = "anonymous"
"""What a caller without a credential is called, where none is asked for."""

_WINDOW_S = 60
# More callers than this are forgotten, longest idle first: a flood of addresses costs no memory.
_MOST_CALLERS = 10_000


@dataclass(frozen=True, slots=True)
class QuotaState:
    """What is left to a caller.

    Attributes:
        limit: Requests in a window of 60 seconds.
        remaining: Requests left in this one.
        reset_s: Whole seconds until the next one begins.
    """

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """Return the RateLimit fields."""
        return {
            "RateLimit-Policy": f'"minute";q={self.limit};w={_WINDOW_S}',
            "RateLimit": f'"minute";r={self.remaining};t={self.reset_s}',
        }


class CallerQuota:
    """Counts the requests of each caller; belongs to the event loop's thread."""

    def __init__(self, requests_per_minute: int) -> None:
        """Start with full quotas.

        Args:
            requests_per_minute: Most requests of one caller in 60 seconds; 0 counts nothing.
        """
        self.requests_per_minute = requests_per_minute
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, caller: str, now_s: float) -> QuotaState | None:
        """Count one request of a caller.

        Args:
            caller: Who asks, as `quota_key` tells.
            now_s: The time on any clock that never goes back.

        Returns:
            What is left; None where nothing is counted.

        Raises:
            QuotaExceededError: Nothing is left until the window ends.
        """
        if not self.requests_per_minute:
            return None
        start_s, used = self._windows.pop(caller, (now_s, 0))
        if now_s >= start_s + _WINDOW_S:
            start_s, used = now_s, 0
        reset_s = max(1, math.ceil(start_s + _WINDOW_S - now_s))
        used += 1
        self._windows[caller] = start_s, min(used, self.requests_per_minute)
        while len(self._windows) > _MOST_CALLERS:
            self._windows.popitem(last=False)
        state = QuotaState(self.requests_per_minute, self.requests_per_minute - used, reset_s)
        if used > self.requests_per_minute:
            raise QuotaExceededError(
                f"You may send {self.requests_per_minute} requests in {_WINDOW_S} seconds; the next"
                f" is due in {reset_s} seconds.",
                retry_after_s=reset_s,
                headers=QuotaState(self.requests_per_minute, 0, reset_s).headers(),
            )
        return state


def quota_key(caller_id: str, request: Request) -> str:
    """Return whose quota a request counts against: the caller's, or that of an address.

    Args:
        caller_id: `service.api.auth.Caller.id`; a credential that was checked, so that nobody gets
            a new quota by making one up.
        request: The request, for its address.
    """
    if caller_id != ANONYMOUS_ID:
        return caller_id
    return f"address:{request.client.host if request.client else 'unknown'}"
