"""What came of one attempt to deliver."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt.

    Attributes:
        kind: `accepted`; `retry`, it may work later; `refused`, it never will as it is; `gone`, the
            destination wants nothing more.
        said: What the receiver answered, or why there is no answer; nothing of the result.
        retry_after_s: Seconds that the receiver asked to be left alone for, if it did.
    """

    kind: Literal["accepted", "retry", "refused", "gone"]
    said: str
    retry_after_s: float | None = None
