"""Whether and when a call is sent again: no sockets, no clocks; both clients share it.

A call is repeated when no answer came, and when the answer says that a later one may (408, 429,
503, and 409 while the first attempt is still being carried out). Every attempt carries the same
Idempotency-Key, so that what the service already did is answered again and not done again.
"""

import math
import random
from http import HTTPStatus
from typing import Final

import httpx2 as httpx

from service.client.failures import ClientError, ProblemError, UnreachableError

_LATER: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    }
)
_IN_FLIGHT: Final = "idempotency-key-in-flight"
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 8.0


def checked_limits(*, attempts: int, deadline_s: float) -> None:
    """Check what a client is given.

    Raises:
        ValueError: There would be no attempt, or no time for one.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, this is {attempts}")
    if not 0.0 < deadline_s < math.inf:
        raise ValueError(f"deadline_s must be a number of seconds above 0, this is {deadline_s}")


class Attempts:
    """The attempts of one call.

    Args:
        most: Attempts in all, at least 1.
        deadline_s: Seconds for all of them together, pauses included.
        begun_s: Monotonic time at which the call began.
    """

    def __init__(self, *, most: int, deadline_s: float, begun_s: float) -> None:
        self._most = most
        self._deadline_s = deadline_s
        self._until_s = begun_s + deadline_s
        self._made = 0

    def remaining_s(self, now_s: float) -> float:
        """Return the seconds left, at least a millisecond."""
        return max(self._until_s - now_s, 0.001)

    def pause_after_silence(self, error: httpx.TransportError, now_s: float) -> float:
        """Return how many seconds to wait after an attempt without an answer.

        Raises:
            UnreachableError: There is no attempt left, or no time for one.
        """
        reason = str(error).rstrip(".") or type(error).__name__
        return self._pause(
            UnreachableError(
                f"no answer after {self._made + 1} attempts in {self._deadline_s:g} s: {reason}."
                " Check the address, and that the service runs (GET /health/ready)."
            ),
            self._backoff_s(),
            now_s,
        )

    def pause_after(self, response: httpx.Response, now_s: float) -> float | None:
        """Return how many seconds to wait after an answer; None: it is the one to keep.

        Raises:
            ProblemError: The call is refused, or there is no attempt or no time left.
        """
        if response.is_success:
            return None
        problem = _to_problem(response)
        if response.status_code not in _LATER and problem.name != _IN_FLIGHT:
            raise problem
        asked_s = problem.retry_after_s
        return self._pause(problem, self._backoff_s() if asked_s is None else asked_s, now_s)

    def _pause(self, error: ClientError, pause_s: float, now_s: float) -> float:
        self._made += 1
        if self._made >= self._most or now_s + pause_s >= self._until_s:
            raise error
        return pause_s

    def _backoff_s(self) -> float:
        # Full jitter: clients that were refused together must not come back together.
        bound_s = min(_FIRST_PAUSE_S * 2.0**self._made, _LONGEST_PAUSE_S)
        return random.uniform(bound_s / 2.0, bound_s)


def _to_problem(response: httpx.Response) -> ProblemError:
    document: object
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = None
    if response.has_redirect_location:
        # None is followed: the key would go to an address that nobody gave.
        document = {
            "title": "The answer is a redirect",
            "detail": f"It leads to {response.headers['Location']}; give the client that address.",
        }
    # Seconds: the service sends no dates, and a proxy's date is as good as no word.
    header = response.headers.get("Retry-After", "")
    retry_after_s = float(header) if header.isdecimal() else None
    return ProblemError.from_document(response.status_code, document, retry_after_s=retry_after_s)
