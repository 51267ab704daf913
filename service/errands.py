"""Work that a request can have done beside its own thread, while a processor has nothing to do.

    worker   ... inference ─┬─ separation ─┬─ measurement ─┬─ flags, answer
    helper                  └─ figures of quality, digests ─┘

Nobody ever waits for a helper that is busy: an errand that none has begun by the time its result is
asked for is done by who asks. Under load the workers therefore do what they did without helpers.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.inference.processors import usable_processors

Value = TypeVar("Value")

_WAITING_A_HELPER: Final = 4


class Errand(Generic[Value]):
    """One piece of work, done once, by whoever comes first."""

    def __init__(self, work: Callable[[], Value]) -> None:
        self._work: Callable[[], Value] | None = work
        self._claim = threading.Lock()
        self._done: Future[Value] = Future()

    def run(self) -> None:
        """Do the work, unless another thread does it or did."""
        if not self._claim.acquire(blocking=False) or self._work is None:
            return
        try:
            value = self._work()
        except BaseException as error:  # noqa: BLE001  it belongs to who asks for the result
            self._done.set_exception(error)
        else:
            self._done.set_result(value)
        finally:
            self._work = None  # a helper may remember the errand longer than its image should live

    def result(self) -> Value:
        """Return what came of it; do it here and now where nobody has begun.

        Raises:
            Exception: Whatever the work raised.
        """
        self.run()
        return self._done.result()

    def drop(self) -> None:
        """See to it that the work is not begun any more; where somebody is at it, wait."""
        if self._claim.acquire(blocking=False):
            self._work = None
            self._done.cancel()
        else:
            wait([self._done])


class Helpers:
    """A few threads for errands. Safe to use from any thread."""

    def __init__(self, threads: int) -> None:
        """Make the helpers; their threads start with the first errand.

        Args:
            threads: Errands at once; 0 leaves all to those who ask.
        """
        self._room = threading.Semaphore(threads * _WAITING_A_HELPER)
        self._executor = (
            ThreadPoolExecutor(threads, thread_name_prefix="karyon-helper") if threads else None
        )

    def begin(self, errand: Errand[Any]) -> None:
        """Hand an errand over, if there is room for it."""
        if self._executor is None or not self._room.acquire(blocking=False):
            return
        try:
            self._executor.submit(self._run, errand)
        except RuntimeError:  # closed: who asks does it
            self._room.release()

    def close(self) -> None:
        """Do what was handed over, and end the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def _run(self, errand: Errand[Any]) -> None:
        try:
            errand.run()
        finally:
            self._room.release()


class Errands:
    """The errands of one image, and the moments at which its segmentation has something for them.

    As a context manager it ends with none of them at work: those not begun are dropped. Without
    helpers everything is done by who asks for it.
    """

    def __init__(self, helpers: Helpers | None = None) -> None:
        """Take the helpers, if there are any."""
        self._helpers = helpers
        self._sent: list[Errand[Any]] = []

    def send(self, work: Callable[[], Value]) -> Errand[Value]:
        """Have something done from now on, beside this thread where there is a helper."""
        errand = Errand(work)
        if self._helpers is not None:
            self._sent.append(errand)
            self._helpers.begin(errand)
        return errand

    def maps_made(self) -> None:
        """Called when the model is done with the image, and processors are free again."""

    def labels_made(self, labels: NDArray[np.int32]) -> None:
        """Called with the labels, shape (H, W), which do not change any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for errand in self._sent:
            errand.drop()


def plan_helpers(workers: int, processors: int | None = None) -> int:
    """Return how many helpers go with some workers: one each, and none without a second processor.

    Args:
        workers: Images worked on at once.
        processors: Processors of this process; default what affinity and the container leave.
    """
    available = usable_processors() if processors is None else processors
    return min(workers, available - 1)
