"""What is known of a request while its work waits and runs: its urgency, deadline, client."""

import time
from typing import Final, Literal

from service.errors import ClientGoneError, DeadlineExceededError

Priority = Literal["stat", "routine", "batch"]
"""`stat`: somebody waits at the microscope. `routine`: the day's cases. `batch`: whenever."""

WEIGHTS: Final[dict[str, int]] = {"stat": 16, "routine": 4, "batch": 1}
"""Shares of the machine that the classes get where all of them wait; none of them is zero."""


class Ticket:
    """One request's standing; made by its route, read by every stage that could stop early.

    The event loop writes, workers read: one flag and one number that never change back, so that no
    lock is needed.

    Attributes:
        priority: The class in which it waits.
        deadline_s: `time.monotonic()` after which nobody wants the answer; None for never.
        trace: The open span of the request, for `service.tracing` alone.
    """

    def __init__(self, priority: Priority = "routine", timeout_s: float | None = None) -> None:
        """Start the clock.

        Args:
            priority: The class in which it waits.
            timeout_s: Seconds from now to the deadline; None for none.
        """
        self.priority: Priority = priority
        self.deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self.trace: object | None = None
        self._given_up = False

    def give_up(self) -> None:
        """Say that nobody waits for the answer any more."""
        self._given_up = True

    def remaining_s(self) -> float | None:
        """Return the seconds to the deadline, at least 0; None where there is none."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - time.monotonic())

    def check(self) -> None:
        """Let the work go on, or end it here.

        Raises:
            ClientGoneError: The client went away.
            DeadlineExceededError: The deadline has passed.
        """
        if self._given_up:
            raise ClientGoneError("The client closed the connection.")
        if self.remaining_s() == 0.0:
            raise DeadlineExceededError("The request's own time ran out before its answer.")
