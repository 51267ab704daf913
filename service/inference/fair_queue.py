"""A queue that serves several classes by weight, so that urgent work goes first and none starves.

Stride scheduling (Waldspurger and Weihl, 1995): each class has a position that advances by
`cost / weight` whenever it is served, and the class furthest behind is served next. A class that
was empty starts where the others are, so that it cannot save up turns.

    weights 4 and 1:   R R R R B R R R R B ...
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """First in, first out within a class; by weight between classes. Not safe between threads."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        """Make an empty queue.

        Args:
            weights: Weight, at least 1, by class.
        """
        self._weights = dict(weights)
        self._waiting: dict[str, deque[tuple[Item, int]]] = {name: deque() for name in weights}
        self._positions = dict.fromkeys(weights, 0.0)
        self._now = 0.0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, item: Item, class_name: str, cost: int = 1) -> None:
        """Append an item to its class.

        Args:
            item: What waits.
            class_name: One of the weights' keys.
            cost: What serving it takes, in any one unit.
        """
        waiting = self._waiting[class_name]
        if not waiting:
            self._positions[class_name] = max(self._positions[class_name], self._now)
        waiting.append((item, cost))
        self._length += 1

    def pop(self, wanted: Callable[[Item], bool] | None = None) -> Item | None:
        """Take the next item, or the next of those that are `wanted`; None where there is none.

        Args:
            wanted: Told of items in the order of their turn.
        """
        order = [name for name, waiting in self._waiting.items() if waiting]
        # Python sorts stably: between equals the class named first goes first.
        for name in sorted(order, key=self._positions.__getitem__):
            waiting = self._waiting[name]
            for index, (item, cost) in enumerate(waiting):
                if wanted is None or wanted(item):
                    del waiting[index]
                    self._length -= 1
                    self._now = self._positions[name]
                    self._positions[name] += cost / self._weights[name]
                    return item
        return None

    def discard(self, item: Item) -> bool:
        """Take `item` (that very object) out of the queue; tell whether it was there."""
        for waiting in self._waiting.values():
            for index, (other, _) in enumerate(waiting):
                if other is item:
                    del waiting[index]
                    self._length -= 1
                    return True
        return False
