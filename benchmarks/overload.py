"""Twice the load that the service can carry, open loop, on a real server over real sockets.

    python -m benchmarks.overload [--models-dir DIR] [--seconds 30] [--factor 2.0]

A closed loop finds the peak, before and after, since a shared machine drifts. In between requests
arrive by a Poisson process at `factor` times that, whether or not earlier ones are answered;
latency counts from the scheduled arrival, so that a stall cannot hide. All come from one address
without any key, as behind a laboratory's proxy, each with an image of its own; a share of those
refused comes back once, after its Retry-After, with nothing but the same request. Meanwhile probes
ask for readiness ten times a second. Bars: goodput at least 95 % of the peak, every refusal a 503
with Retry-After, no other error, who comes back as told is answered, probes under 20 ms at p99,
memory within 3 % of half time at last (until then the waiting room fills, whose bodies are memory).
The client shares the processors with the server: what it takes of them in both phases is printed;
leave one for it where you can.
"""

import argparse
import asyncio
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import numpy as np
import psutil

from benchmarks.http_overhead import running_service
from benchmarks.thrifty_client import ThriftyClient
from service.inference.repository import embedded_models_dir

IMAGES = Path(__file__).resolve().parents[1] / "tests" / "data" / "images"
HEADERS = {"Content-Type": "image/png"}
GOODPUT_BAR = 0.95
PROBE_BAR_MS = 20.0
MEMORY_BAR = 0.03
# At first the queue is empty, and the first answers take as long as the model does; a closed loop
# counts its answers to the last.
_FILLS_S = 2.0
_IEND_BYTES = 12
_MOST_COMMENT_BYTES = 65_536


@dataclass
class Outcome:
    """What came of the requests.

    Attributes:
        statuses: Answers by status, first tries alone.
        latencies_ms: From the scheduled arrival to the whole answer, of those with 200.
        answered_s: When each 200 was whole, second tries included.
        retries: Second tries by status.
        bare_refusals: Refusals without a Retry-After.
        probes_ms: Time of each probe.
        resident_mb: Resident memory of the server, ten times a second.
        client_share: Share of one processor that this client took.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    retries: Counter[int] = field(default_factory=Counter)
    bare_refusals: int = 0
    probes_ms: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    client_share: float = 0.0

    @property
    def memory_growth(self) -> float:
        """Resident memory at last over that of half time, less 1: the queue was full by then."""
        return self.resident_mb[-1] / self.resident_mb[len(self.resident_mb) // 2] - 1


def image_of_its_own(png: bytes) -> bytes:
    """Return the same picture with a comment of random length: no two images have one length."""
    comment = b"tEXt" + b"Comment\0" + b" " * random.randrange(_MOST_COMMENT_BYTES)
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    return png[:-_IEND_BYTES] + chunk + png[-_IEND_BYTES:]


async def closed_loop(
    client: ThriftyClient, files: list[bytes], seconds: float
) -> tuple[float, float]:
    """Let four clients ask without a pause; return requests a second, and the client's share."""
    stop_s = time.perf_counter() + seconds
    done = 0

    async def one_client(turn: int) -> None:
        nonlocal done
        while time.perf_counter() < stop_s:
            answer = await client.post(
                "/segment", image_of_its_own(files[turn % len(files)]), HEADERS
            )
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(answer.body.decode("utf-8", "replace"))
            done += 1
            turn += 1

    start_s, busy_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_client(turn) for turn in range(4)))
    passed_s = time.perf_counter() - start_s
    return done / passed_s, (time.process_time() - busy_s) / passed_s


async def one_request(
    client: ThriftyClient, data: bytes, outcome: Outcome, returning_share: float
) -> None:
    """Send one image that was due now, and perhaps once more when told to come back."""
    scheduled_s = time.perf_counter()
    answer = await client.post("/segment", data, HEADERS)
    outcome.statuses[answer.status] += 1
    if answer.status == HTTPStatus.OK:
        outcome.answered_s.append(time.perf_counter())
        outcome.latencies_ms.append((outcome.answered_s[-1] - scheduled_s) * 1000.0)
    elif answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = answer.headers.get("retry-after", "")
        if not retry_after.isdecimal():
            outcome.bare_refusals += 1
        elif random.random() < returning_share:
            await asyncio.sleep(int(retry_after))
            again = await client.post("/segment", data, HEADERS)
            outcome.retries[again.status] += 1
            if again.status == HTTPStatus.OK:
                outcome.answered_s.append(time.perf_counter())


async def ten_times_a_second(action: Callable[[], Awaitable[None]]) -> None:
    """Call `action` until cancelled."""
    while True:
        await action()
        await asyncio.sleep(0.1)


async def open_loop(
    client: ThriftyClient,
    files: list[bytes],
    rate: float,
    arguments: argparse.Namespace,
    server: psutil.Process,
) -> tuple[Outcome, float]:
    """Let requests arrive for a while; return what came of them, and the goodput meanwhile."""
    outcome = Outcome()
    seconds: float = arguments.seconds

    async def probe() -> None:
        start_s = time.perf_counter()
        answer = await client.get("/health/ready")
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(answer.body.decode("utf-8", "replace"))
        outcome.probes_ms.append((time.perf_counter() - start_s) * 1000.0)
        outcome.resident_mb.append(server.memory_info().rss / 1e6)

    probing = asyncio.create_task(ten_times_a_second(probe))
    start_s, busy_s = time.perf_counter(), time.process_time()
    due_s = start_s
    async with asyncio.TaskGroup() as group:
        turn = 0
        while (due_s := due_s + random.expovariate(rate)) < start_s + seconds:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            data = image_of_its_own(files[turn % len(files)])
            group.create_task(one_request(client, data, outcome, arguments.returning))
            turn += 1
        outcome.client_share = (time.process_time() - busy_s) / seconds
    probing.cancel()
    # What is still queued when the arrivals end is no goodput of that time.
    from_s = start_s + min(_FILLS_S, seconds / 4)
    until_s = start_s + seconds
    in_time = sum(from_s <= answered_s < until_s for answered_s in outcome.answered_s)
    return outcome, in_time / (until_s - from_s)


def other_answers(outcome: Outcome) -> dict[int, int]:
    """Return what came beside 200 and 503, by status."""
    both = outcome.statuses + outcome.retries
    return {status: count for status, count in both.items() if status not in (200, 503)}


def report(outcome: Outcome, goodput: float, peak: float, rate: float) -> bool:
    """Print the table; tell whether the bars are held."""
    others = other_answers(outcome)
    p50, p99 = np.percentile(outcome.latencies_ms, [50, 99]) if outcome.latencies_ms else (0, 0)
    probe_p99 = float(np.percentile(outcome.probes_ms, 99))
    memory = outcome.resident_mb
    half_mb = memory[len(memory) // 2]
    print(f"peak, closed loop       {peak:8.2f} requests/s")
    print(f"arrivals, open loop     {rate:8.2f} requests/s")
    print(f"goodput                 {goodput:8.2f} requests/s, {goodput / peak:.2f} of the peak")
    print(f"answered 200            {outcome.statuses[200]:8} p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    print(f"refused 503             {outcome.statuses[503]:8} without Retry-After", end=" ")
    print(outcome.bare_refusals)
    print(f"came back as told       {sum(outcome.retries.values()):8} by status", end=" ")
    print(dict(outcome.retries))
    print(f"other answers           {sum(others.values()):8} {others or ''}")
    print(f"probes                  {len(outcome.probes_ms):8} p99 {probe_p99:.1f} ms")
    print(
        f"resident memory         {memory[0]:8.0f} MB at first, {half_mb:.0f} MB at half time,",
        end="",
    )
    print(f" {memory[-1]:.0f} MB at last: {outcome.memory_growth:+.1%} since half time")
    held = (
        goodput >= GOODPUT_BAR * peak
        and not outcome.bare_refusals
        and not others
        and not outcome.retries[503]
        and probe_p99 < PROBE_BAR_MS
        and outcome.memory_growth <= MEMORY_BAR
    )
    print("bars held" if held else "BARS BROKEN")
    return held


async def measure(
    port: int, server: psutil.Process, arguments: argparse.Namespace
) -> tuple[Outcome, float, float]:
    """Find the peak and pass it; return what came of it, the goodput, and the mean peak."""
    files = [path.read_bytes() for path in sorted(IMAGES.glob("tnbc_*.png"))]
    client = ThriftyClient(port)
    await closed_loop(client, files, 2.0)
    peak, share = await closed_loop(client, files, arguments.seconds / 2)
    rate = arguments.factor * peak
    outcome, goodput = await open_loop(client, files, rate, arguments, server)
    again, _ = await closed_loop(client, files, arguments.seconds / 2)
    client.close()
    print(f"client, of a processor  {share:8.3f} at the peak, {outcome.client_share:.3f} above it")
    print(f"peak before, after      {peak:8.2f}, {again:.2f} requests/s")
    return outcome, goodput, (peak + again) / 2


def main() -> int:
    """Measure, print, and return 0 when the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument(
        "--returning", type=float, default=0.2, help="Share of the refused that come back."
    )
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    with running_service(arguments.models_dir, arguments.threads) as (process, port):
        outcome, goodput, peak = asyncio.run(measure(port, process, arguments))
    return 0 if report(outcome, goodput, peak, arguments.factor * peak) else 1


if __name__ == "__main__":
    sys.exit(main())
