"""A line of requests that will be let in for certain, as soon as there is room."""

import asyncio
import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from service.inference.ticket import Priority

_RANKS: Final[dict[Priority, int]] = {"stat": 0, "routine": 1, "batch": 2}


@dataclass(order=True, slots=True)
class _Standing:
    """Who stands in a line."""

    rank: int
    number: int
    take: Callable[[], bool] = field(compare=False)
    let_in: asyncio.Future[None] = field(compare=False)


class Line:
    """The most urgent first, then first in, first out. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._standing: list[_Standing] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._standing)

    async def stand(
        self,
        take: Callable[[], bool],
        priority: Priority,
        *,
        timeout_s: float | None = None,
        gone: asyncio.Future[None] | None = None,
    ) -> bool:
        """Wait until there is room.

        Args:
            take: Takes what is needed, if it is there, and tells whether it did.
            priority: Who goes before whom.
            timeout_s: Seconds to wait at most; None for ever.
            gone: Ends the wait once it is done.

        Returns:
            Whether `take` has taken; False after the time, or when `gone` is done.
        """
        rank = _RANKS[priority]
        ahead = bool(self._standing) and self._standing[0].rank <= rank
        if not ahead and take():
            return True
        let_in = asyncio.get_running_loop().create_future()
        self._number += 1
        standing = _Standing(rank, self._number, take, let_in)
        bisect.insort(self._standing, standing)
        try:
            await asyncio.wait(
                {let_in} if gone is None else {let_in, gone},
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            return let_in.done()
        finally:
            if not let_in.done():
                self._standing.remove(standing)
                self.move()  # who stood behind may fit

    def move(self) -> None:
        """Let in who fits now; call it whenever something has become free."""
        while self._standing and self._standing[0].take():
            self._standing.pop(0).let_in.set_result(None)
