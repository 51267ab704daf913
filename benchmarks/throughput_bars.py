"""Bars 1 and 2 of serving: how much of the bare model's speed is left over HTTP, full and alone.

The bare loops and the service take turns of a second, so that whatever else the machine does
hits both alike: a ceiling that was measured minutes before is that of another machine.

The ceiling is the better of two bare loops of `session.run` on the service's own choice of provider
and precision: one run at once with all threads, or a one-thread run for each processor.
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.bars import Row
from benchmarks.engine import tiles_per_second
from benchmarks.host_work import BAR_MS, TILE, HostWork, measure_host_work
from benchmarks.http_overhead import running_service
from benchmarks.saturation import ask_without_pause
from service.images.decode import ImageLimits, decode_image
from service.inference.lanes import LanePlan
from service.inference.precision import PrecisionChoice
from service.inference.processors import usable_processors
from service.inference.providers import CPU_PROVIDER, Provider, RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession

SATURATING = 8
ROUNDS = 8
CEILING_BAR = 0.97
OVERHEAD_BAR_MS = 3.0
DEFAULT_PROVIDER_BAR = 6.0


@dataclass
class Loops:
    """What one way of asking came to, over all its turns.

    Attributes:
        latencies_ms: Of each run or request.
        seconds: That the turns took together.
        processor_s: Processor time of whoever did the work.
        done: Runs or requests.
    """

    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    processor_s: float = 0.0
    done: float = 0.0

    @property
    def per_s(self) -> float:
        """Runs or requests a second."""
        return self.done / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return statistics.median(self.latencies_ms)

    @property
    def processor_ms(self) -> float:
        """Processor time of one."""
        return self.processor_s * 1000.0 / self.done


@dataclass
class SideBySide:
    """Four loops that took turns, and the memory of the service after them."""

    bare_alone: Loops = field(default_factory=Loops)
    bare_crowd: Loops = field(default_factory=Loops)
    service_alone: Loops = field(default_factory=Loops)
    service_crowd: Loops = field(default_factory=Loops)
    memory_mb: float = 0.0

    @property
    def ceiling_per_s(self) -> float:
        """Tiles a second of the better bare loop."""
        return max(self.bare_alone.per_s, self.bare_crowd.per_s)


def open_session(
    plan: LanePlan,
    provider: Provider = "auto",
    precision: PrecisionChoice = "auto",
    *,
    rewrite: bool = True,
) -> ModelSession:
    """Load the embedded model for a layout."""
    return ModelRepository.open(
        embedded_models_dir(),
        provider=provider,
        precision=precision,
        options=RuntimeOptions(threads=plan.threads, streams=plan.lanes, rewrite=rewrite),
    ).get()


def run_alone(session: ModelSession, tiles: NDArray[np.uint8], seconds: float, into: Loops) -> None:
    """Run the model again and again, one run at once."""
    begin_s, busy_s = time.perf_counter(), time.process_time()
    while (start_s := time.perf_counter()) < begin_s + seconds:
        session.run(tiles)
        into.latencies_ms.append((time.perf_counter() - start_s) * 1000.0)
        into.done += 1
    into.seconds += time.perf_counter() - begin_s
    into.processor_s += time.process_time() - busy_s


def run_crowd(
    session: ModelSession, lanes: int, tiles: NDArray[np.uint8], seconds: float, into: Loops
) -> None:
    """Run the model from so many threads."""
    begin_s, busy_s = time.perf_counter(), time.process_time()
    rate = tiles_per_second(lambda _: session.run(tiles), lanes, seconds)
    passed_s = time.perf_counter() - begin_s
    into.done += rate * passed_s
    into.seconds += passed_s
    into.processor_s += time.process_time() - busy_s


def ask(
    server: psutil.Process, port: int, data: bytes, connections: int, seconds: float, into: Loops
) -> None:
    """Ask a service over so many connections."""
    before = server.cpu_times()
    loop = ask_without_pause(port, data, connections, seconds)
    after = server.cpu_times()
    into.processor_s += after.user - before.user + after.system - before.system
    into.latencies_ms.extend(loop.latencies_ms)
    into.done += loop.requests
    into.seconds += loop.requests / loop.requests_per_s


def measure_side_by_side(
    alone: ModelSession,
    crowd: ModelSession,
    lanes: int,
    settings: Mapping[str, str],
    data: bytes,
    seconds: float,
) -> SideBySide:
    """Have bare loops and a service of its own take turns.

    Args:
        alone: The model as a run that goes alone has it.
        crowd: The model as runs beside each other have it.
        lanes: How many those are.
        settings: Of the service.
        data: The image that is asked for.
        seconds: For each of the four, over all turns.
    """
    tiles = decode_image(data, ImageLimits()).pixels[np.newaxis]
    side, turn_s = SideBySide(), seconds / ROUNDS
    with running_service(embedded_models_dir(), 0, settings) as (server, port):
        for session in (alone, crowd):
            session.run(tiles)
        ask_without_pause(port, data, SATURATING, min(2.0, seconds))
        for _ in range(ROUNDS):
            run_alone(alone, tiles, turn_s, side.bare_alone)
            ask(server, port, data, 1, turn_s, side.service_alone)
            run_crowd(crowd, lanes, tiles, turn_s, side.bare_crowd)
            ask(server, port, data, SATURATING, turn_s, side.service_crowd)
        side.memory_mb = server.memory_info().rss / 1e6
    return side


def throughput_rows(seconds: float) -> list[Row]:
    """Bars 1 and 2, for each way to share out the processors."""
    processors = usable_processors()
    data = TILE.read_bytes()
    one, many = LanePlan(1, processors), LanePlan(processors, 1)
    sessions = {plan: open_session(plan) for plan in (one, many)}
    chosen = sessions[one]
    host = measure_host_work(chosen, data, 30)
    rows = [
        Row(
            "1 host work a tile",
            f"<= {BAR_MS:.0f} ms",
            f"{host.counted_ms:.1f} ms ({host.nuclei} nuclei); all stages {host.total_ms:.1f} ms",
            host.counted_ms <= BAR_MS,
        )
    ]
    reference = None
    if chosen.rewritten or (chosen.provider, chosen.precision) != (CPU_PROVIDER, "fp32"):
        reference = _default_provider_per_s((one, many), data, seconds / 2)
    # What the service chooses by itself is measured without settings (RuntimeOptions.on).
    elastic = f"elastic, {processors} lanes or {processors} threads"
    single = f"1 lane x {processors} threads"
    usual = elastic if chosen.provider == CPU_PROVIDER else single
    layouts = {
        elastic: (one, many, {"concurrency": str(processors), "alone_threads": str(processors)}),
        single: (one, one, {"concurrency": "1"}),
        f"{processors} lanes x 1 thread": (many, many, {"concurrency": str(processors)}),
    }
    for name, (alone, crowd, settings) in layouts.items():
        side = measure_side_by_side(
            sessions[alone], sessions[crowd], crowd.lanes,
            {} if name == usual else settings, data, seconds,
        )  # fmt: skip
        title = f"{name} (default)" if name == usual else name
        rows += _rows_of(title, side, host, processors, reference, chosen)
    return rows


def _default_provider_per_s(plans: tuple[LanePlan, LanePlan], data: bytes, seconds: float) -> float:
    """Return the tiles a second of the better bare loop of the file's own graph in float32."""
    tiles = decode_image(data, ImageLimits()).pixels[np.newaxis]
    side = SideBySide()
    for plan, into in zip(plans, (side.bare_alone, side.bare_crowd), strict=True):
        session = open_session(plan, "cpu", "fp32", rewrite=False)
        session.run(tiles)
        run_crowd(session, plan.lanes, tiles, seconds, into)
    return side.ceiling_per_s


def _rows_of(
    name: str,
    side: SideBySide,
    host: HostWork,
    processors: int,
    reference: float | None,
    model: ModelSession,
) -> list[Row]:
    """Return the lines of one layout."""
    with_host = 1.0 / (1.0 / side.ceiling_per_s + host.counted_ms / 1000.0 / processors)
    full, lone = side.service_crowd, side.service_alone
    busy_ms = side.bare_crowd.processor_ms + host.counted_ms
    over_ms = lone.p50_ms - side.bare_alone.p50_ms
    apart_ms = host.counted_ms + host.stages_ms["answer, signed"]
    rest_ms = over_ms - apart_ms
    running = f"{model.provider.removesuffix('ExecutionProvider')} {model.precision}"
    times = full.per_s / (side.ceiling_per_s if reference is None else reference)
    return [
        Row(
            f"1 saturated, {name}, {running}",
            f">= {CEILING_BAR} of the ceiling with the host work",
            f"{full.per_s:.2f} requests/s of {with_host:.2f} ({side.ceiling_per_s:.2f} without the"
            f" host work): {full.per_s / with_host:.2f}; {side.memory_mb:.0f} MB",
            full.per_s >= CEILING_BAR * with_host,
        ),
        Row(
            f"1 processor time a tile, {name}",
            "-",
            f"bare {side.bare_crowd.processor_ms:.0f} ms, with the host work {busy_ms:.0f},"
            f" service {full.processor_ms:.0f} ms: {busy_ms / full.processor_ms:.2f}",
        ),
        Row(
            f"2 one by one, {name}",
            f"<= {OVERHEAD_BAR_MS:.0f} ms over bare and decoding, separation, answer",
            f"p50 {lone.p50_ms:.1f} ms, bare {side.bare_alone.p50_ms:.1f} ms: {over_ms:.1f} ms over"
            f" it, {rest_ms:.1f} ms without the {apart_ms:.1f} ms measured apart",
            rest_ms <= OVERHEAD_BAR_MS,
        ),
        Row(
            f"1 end to end, {name}",
            f">= {DEFAULT_PROVIDER_BAR:.0f} of the default provider at fp32",
            f"{times:.2f}" + (", which is what runs" if reference is None else ""),
            times >= DEFAULT_PROVIDER_BAR,
        ),
    ]
