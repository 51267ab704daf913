"""A closed loop of some connections that ask without a pause: what a service carries, how fast."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from http import HTTPStatus

from benchmarks.thrifty_client import ThriftyClient

_JPEG = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True)
class Loop:
    """What came back.

    Attributes:
        requests_per_s: Answers a second.
        latencies_ms: Of each answer.
    """

    requests_per_s: float
    latencies_ms: list[float]

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return statistics.median(self.latencies_ms)

    @property
    def requests(self) -> int:
        """Answers in all."""
        return len(self.latencies_ms)


def ask_without_pause(port: int, data: bytes, concurrency: int, seconds: float) -> Loop:
    """Post one JPEG image again and again.

    Raises:
        RuntimeError: An answer was none.
    """
    return asyncio.run(_ask(ThriftyClient(port), data, concurrency, seconds))


async def _ask(client: ThriftyClient, data: bytes, concurrency: int, seconds: float) -> Loop:
    latencies_ms: list[float] = []
    stop_s = time.perf_counter() + seconds

    async def one_connection() -> None:
        while (begin_s := time.perf_counter()) < stop_s:
            answer = await client.post("/segment", data, _JPEG)
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(answer.body.decode("utf-8", "replace"))
            latencies_ms.append((time.perf_counter() - begin_s) * 1000.0)

    start_s = time.perf_counter()
    await asyncio.gather(*(one_connection() for _ in range(concurrency)))
    passed_s = time.perf_counter() - start_s
    client.close()
    return Loop(len(latencies_ms) / passed_s, latencies_ms)
