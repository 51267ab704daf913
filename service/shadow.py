"""Shadow mode: a candidate model sees a share of the traffic; nobody sees its answers.

```
request ──► served model ──► answer sent
                                └─ if nothing waits ─► candidate, same pixels ─► counts compared
```
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from service.segmentation_result import Segmentation, SegmentOptions
from service.segmenter import Segmenter

_log = structlog.stdlib.get_logger("karyon.shadow")


class ShadowObserver(Protocol):
    """Who shows how a candidate compares; `service.telemetry.Metrics` does."""

    def shadow_compared(self, model: str, version: str, served: int, candidate: int) -> None:
        """A candidate has counted `candidate` nuclei where `served` were answered."""

    def shadow_passed(self, outcome: str) -> None:
        """An image of the share was not compared: `busy` or `failed`."""


class Shadow:
    """Runs a candidate on a share of the images, one at a time, while the service is idle.

    Its methods belong to the event loop's thread; the candidate runs on a thread of its own.
    """

    def __init__(
        self,
        candidate: Callable[[], Segmenter],
        share: float,
        *,
        observer: ShadowObserver,
        is_idle: Callable[[], bool],
    ) -> None:
        """Take a candidate.

        Args:
            candidate: Returns the candidate's segmenter.
            share: Share of the images, 0..1.
            observer: Told of each comparison.
            is_idle: Whether no request works or waits.
        """
        self._candidate = candidate
        self._share = share
        self._observer = observer
        self._is_idle = is_idle
        self._owed = 0.0
        self._running: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="karyon-shadow")

    async def offer(
        self,
        pixels: NDArray[np.uint8],
        image_mpp: float | None,
        options: SegmentOptions,
        served: Segmentation,
    ) -> None:
        """Begin to compare the candidate on an image that was answered, if it is of the share.

        Args:
            pixels: As in `Segmenter.segment`.
            image_mpp: As in `Segmenter.segment`.
            options: The caller's choices.
            served: What was answered.
        """
        candidate = self._candidate()
        if candidate.session is served.model:
            return
        # Evenly, not at random: 0.25 is every fourth image.
        self._owed += self._share
        if self._owed < 1.0:
            return
        self._owed -= 1.0
        if self._running is not None or not self._is_idle():
            self._observer.shadow_passed("busy")
            return
        work = functools.partial(candidate.segment, pixels, image_mpp, options)
        self._running = asyncio.create_task(self._compare(candidate, work, served))

    async def _compare(
        self, candidate: Segmenter, work: Callable[[], Segmentation], served: Segmentation
    ) -> None:
        contract = candidate.session.contract
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except Exception as error:  # noqa: BLE001  a candidate's failure is a finding, nobody's error
            self._observer.shadow_passed("failed")
            _log.warning("shadow failed", error=type(error).__name__)
        else:
            self._observer.shadow_compared(
                contract.name, contract.version, served.count, found.count
            )
            _log.info(
                "shadow compared",
                served=f"{served.model.contract.name}:{served.model.contract.version}",
                candidate=f"{contract.name}:{contract.version}",
                served_count=served.count,
                candidate_count=found.count,
            )
        finally:
            self._running = None

    async def close(self) -> None:
        """Give up the thread; a running comparison ends first."""
        if self._running is not None:
            await asyncio.wait([self._running])
        self._executor.shutdown(wait=False, cancel_futures=True)
