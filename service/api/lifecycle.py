"""Where the process stands in its life, for the probes and for refusing work while draining."""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """The phases, in order."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True)
class Lifecycle:
    """The current phase: written by start-up and the signal handler, read by the probes.

    Attributes:
        phase: Where the process stands.
        start_up_error: Why it could not start, in words for the operator.
        fatal_error: Why it must end, in words for the operator.
    """

    phase: Phase = Phase.STARTING
    start_up_error: str | None = None
    fatal_error: str | None = None

    def fail(self, error: Exception) -> None:
        """Take no more work and let the server end the process: what failed will not heal in it."""
        self.fatal_error = str(error)
        self.phase = Phase.DRAINING
