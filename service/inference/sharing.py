"""Who gets the processors: a tile that comes alone all of them, several tiles one share each.

```
 tiles     a            b   c d   e f g h ...        alone again, after a lull
 lane 1    ██ a ██        █ b █  █ d █  █ f █           ██ i ██
 lane 2    ██ a ██           █ c █  █ e █  █ g █        ██ i ██
```
A run with a thread a processor is over soonest, and its threads wait for each other after every
layer: whatever else wants a processor holds all of them up. Runs of one thread never wait, so as
many of them as there are processors carry more, each for longer.
"""

import math
from typing import Final, Literal

Share = Literal["all", "one"]

# Of the lanes, from which on runs side by side end sooner than one after the other: on two
# processors a run with both takes 0.6 of the time of a run with one (docs/performance.md).
_BUSY_SHARE: Final = 0.75
# Between two tiles of a steady load all runs may end for as long as an image is decoded or
# separated; that is no reason to expect the next tile to come alone.
_LULL_S: Final = 0.1


class ProcessorSharing:
    """Decides what each run gets. Not safe between threads: `TileBatcher` calls it under its lock.

    Tiles are counted from when they wait until they have run. A run gets all processors when none
    is going on and there were few tiles since the last one began; while it lasts, no other begins.
    """

    def __init__(self, lanes: int) -> None:
        """Begin with nothing running.

        Args:
            lanes: Runs of one share that fit on the processors.
        """
        self._busy_from = max(2, math.ceil(_BUSY_SHARE * lanes))
        self._running = 0
        self._has_all = False
        self._most = 0
        self._idle_since_s = -math.inf

    def queued(self, waiting: int) -> None:
        """So many tiles wait now."""
        self._most = max(self._most, self._running + waiting)

    def offer(self, waiting: int, now_s: float) -> Share | None:
        """Return what the next run may have; None where it must wait for one to end.

        Args:
            waiting: Tiles that wait, at least one.
            now_s: On a clock that never goes back.
        """
        if not self._running and now_s - self._idle_since_s > _LULL_S:
            self._most = waiting
        if self._has_all:
            return None
        if self._most >= self._busy_from:
            return "one"
        return None if self._running else "all"

    def begin(self, share: Share, waiting: int) -> None:
        """A run begins with what was offered; so many tiles still wait."""
        self._running += 1
        self._has_all = share == "all"
        self._most = self._running + waiting

    def end(self, now_s: float) -> None:
        """A run is over."""
        self._running -= 1
        self._has_all = False
        if not self._running:
            self._idle_since_s = now_s
