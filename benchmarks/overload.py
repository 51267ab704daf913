"""Twice the load that the service can carry, open loop, on a real server over real sockets.

    python -m benchmarks.overload [--models-dir DIR] [--seconds 30] [--factor 2.0]

First a closed loop finds the peak. Then requests arrive by a Poisson process at `factor` times
that, each of another caller, whether or not earlier ones are answered; latency counts from the
scheduled arrival, so that a stall cannot hide. One refused client in five comes back once, after
its Retry-After. Meanwhile probes ask for readiness ten times a second. Bars: goodput at least 95 %
of the peak, every refusal a 503 with Retry-After, no other error, who comes back as told is
answered, probes under 20 ms at p99. The client shares the processors with the server: leave one for
it where you can.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil

from benchmarks.http_overhead import running_service
from service.inference.repository import embedded_models_dir

IMAGES = Path(__file__).resolve().parents[1] / "tests" / "data" / "images"
HEADERS = {"Content-Type": "image/png"}
GOODPUT_BAR = 0.95
PROBE_BAR_MS = 20.0
RETRYING_SHARE = 0.2


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
    """

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    retries: Counter[int] = field(default_factory=Counter)
    bare_refusals: int = 0
    probes_ms: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)


async def closed_loop(client: httpx.AsyncClient, files: list[bytes], seconds: float) -> float:
    """Return the requests a second of four clients that never pause."""
    stop_s = time.perf_counter() + seconds
    done = 0

    async def one_client(turn: int) -> None:
        nonlocal done
        while time.perf_counter() < stop_s:
            response = await client.post(
                "/segment", content=files[turn % len(files)], headers=HEADERS
            )
            response.raise_for_status()
            done += 1
            turn += 1

    start_s = time.perf_counter()
    await asyncio.gather(*(one_client(turn) for turn in range(4)))
    return done / (time.perf_counter() - start_s)


async def one_request(client: httpx.AsyncClient, data: bytes, outcome: Outcome) -> None:
    """Send one image that was due now, and perhaps once more when told to come back."""
    scheduled_s = time.perf_counter()
    headers = {**HEADERS, "X-API-Key": uuid.uuid4().hex}
    response = await client.post("/segment", content=data, headers=headers)
    outcome.statuses[response.status_code] += 1
    if response.status_code == httpx.codes.OK:
        outcome.answered_s.append(time.perf_counter())
        outcome.latencies_ms.append((outcome.answered_s[-1] - scheduled_s) * 1000.0)
    elif response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        retry_after = response.headers.get("retry-after", "")
        if not retry_after.isdecimal():
            outcome.bare_refusals += 1
        elif random.random() < RETRYING_SHARE:
            await asyncio.sleep(int(retry_after))
            again = await client.post("/segment", content=data, headers=headers)
            outcome.retries[again.status_code] += 1
            if again.status_code == httpx.codes.OK:
                outcome.answered_s.append(time.perf_counter())


async def ten_times_a_second(action: Callable[[], Awaitable[None]]) -> None:
    """Call `action` until cancelled."""
    while True:
        await action()
        await asyncio.sleep(0.1)


async def open_loop(
    client: httpx.AsyncClient, files: list[bytes], rate: float, seconds: float, server: int
) -> tuple[Outcome, float]:
    """Let requests arrive for a while; return what came of them, and the goodput meanwhile."""
    outcome = Outcome()
    process = psutil.Process(server)

    async def probe() -> None:
        start_s = time.perf_counter()
        response = await client.get("/health/ready")
        response.raise_for_status()
        outcome.probes_ms.append((time.perf_counter() - start_s) * 1000.0)
        outcome.resident_mb.append(process.memory_info().rss / 1e6)

    probing = asyncio.create_task(ten_times_a_second(probe))
    start_s = time.perf_counter()
    due_s = start_s
    async with asyncio.TaskGroup() as group:
        turn = 0
        while (due_s := due_s + random.expovariate(rate)) < start_s + seconds:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(one_request(client, files[turn % len(files)], outcome))
            turn += 1
    probing.cancel()
    # What is still queued when the arrivals end is no goodput of that time.
    in_time = sum(answered_s < start_s + seconds for answered_s in outcome.answered_s)
    return outcome, in_time / seconds


def report(outcome: Outcome, goodput: float, peak: float, rate: float) -> bool:
    """Print the table; tell whether the bars are held."""
    others = {
        status: count
        for status, count in (outcome.statuses + outcome.retries).items()
        if status not in (200, 503)
    }
    p50, p99 = np.percentile(outcome.latencies_ms, [50, 99]) if outcome.latencies_ms else (0, 0)
    probe_p99 = float(np.percentile(outcome.probes_ms, 99))
    memory = outcome.resident_mb
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
    print(f"resident memory         {memory[0]:8.0f} MB at first, {memory[-1]:.0f} MB at last")
    held = (
        goodput >= GOODPUT_BAR * peak
        and not outcome.bare_refusals
        and not others
        and not outcome.retries[503]
        and probe_p99 < PROBE_BAR_MS
    )
    print("bars held" if held else "BARS BROKEN")
    return held


async def measure(port: int, server: int, arguments: argparse.Namespace) -> bool:
    """Find the peak, pass it, and report."""
    files = [path.read_bytes() for path in sorted(IMAGES.glob("tnbc_*.png"))]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=300.0, limits=limits
    ) as client:
        await closed_loop(client, files, 2.0)
        peak = await closed_loop(client, files, arguments.seconds / 2)
        rate = arguments.factor * peak
        outcome, goodput = await open_loop(client, files, rate, arguments.seconds, server)
    return report(outcome, goodput, peak, rate)


def main() -> int:
    """Measure, print, and return 0 when the bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    with running_service(arguments.models_dir, arguments.threads) as (process, port):
        held = asyncio.run(measure(port, process.pid, arguments))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
