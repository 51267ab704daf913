"""All bars of serving in one run, one table: throughput, overhead, overload, swaps, memory, peers.

    python -m benchmarks.serving_bars [--scale 1.0] [--peers "FastAPI + onnxruntime,LitServe"]

Some twelve minutes on two idle processors, after the environments of the peers have been made once
(`make bench-peers`); `--scale 0.1 --peers none` tries it out. Every bar is a ratio within this run,
or a time that a busy machine only makes longer. The ceiling is the best loop of bare `session.run`:
one run at once with all threads, or a one-thread run for each processor; one tile is 512x512 JPEG.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import overload, steady_memory
from benchmarks.bars import Row, peer_rows, run_module, table
from benchmarks.engine import tiles_per_second
from benchmarks.host_work import BAR_MS, TILE, HostWork, measure_host_work
from benchmarks.http_overhead import running_service
from benchmarks.machine import background_load, facts_sentence, machine_facts
from benchmarks.publish import REPOSITORY
from benchmarks.saturation import Loop, ask_without_pause
from service.images.decode import ImageLimits, decode_image
from service.inference.lanes import LanePlan
from service.inference.precision import PrecisionChoice
from service.inference.processors import usable_processors
from service.inference.providers import CPU_PROVIDER, Provider, RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession

SATURATING = 8
CEILING_BAR = 0.97
OVERHEAD_BAR_MS = 3.0
DEFAULT_PROVIDER_BAR = 6.0


@dataclass(frozen=True)
class Bare:
    """A loop of `session.run` without any service.

    Attributes:
        tiles_per_s: With as many threads asking as there are lanes.
        p50_ms: Of one run alone.
        processor_ms: Processor time of a tile, of all threads together.
        name: Provider and precision.
    """

    tiles_per_s: float
    p50_ms: float
    processor_ms: float
    name: str


def open_session(
    lanes: int, threads: int, provider: Provider = "auto", precision: PrecisionChoice = "auto"
) -> ModelSession:
    """Load the embedded model for a layout."""
    return ModelRepository.open(
        embedded_models_dir(),
        provider=provider,
        precision=precision,
        options=RuntimeOptions(threads=threads, streams=lanes),
    ).get()


def measure_bare(session: ModelSession, lanes: int, data: bytes, seconds: float) -> Bare:
    """Run the model alone: once at a time, then on all lanes."""
    tiles = decode_image(data, ImageLimits()).pixels[np.newaxis]
    session.run(tiles)
    alone_ms = []
    stop_s = time.perf_counter() + seconds / 2
    while (begin_s := time.perf_counter()) < stop_s:
        session.run(tiles)
        alone_ms.append((time.perf_counter() - begin_s) * 1000.0)
    begin_s, busy_s = time.perf_counter(), time.process_time()
    rate = tiles_per_second(lambda _: session.run(tiles), lanes, seconds)
    tiles_run = rate * (time.perf_counter() - begin_s)
    return Bare(
        rate,
        statistics.median(alone_ms),
        (time.process_time() - busy_s) * 1000.0 / tiles_run,
        f"{session.provider.removesuffix('ExecutionProvider')} {session.precision}",
    )


def measure_service(
    settings: Mapping[str, str], data: bytes, seconds: float
) -> tuple[Loop, Loop, float, float]:
    """Ask a service one by one, then with more at once than it can do.

    Returns:
        Both loops, the processor time of a request in the second in milliseconds, and resident MB.
    """
    with running_service(embedded_models_dir(), 0, settings) as (server, port):
        ask_without_pause(port, data, SATURATING, min(2.0, seconds))
        alone = ask_without_pause(port, data, 1, seconds)
        before = server.cpu_times()
        full = ask_without_pause(port, data, SATURATING, seconds)
        after = server.cpu_times()
        busy_s = after.user - before.user + after.system - before.system
        return alone, full, busy_s * 1000.0 / full.requests, server.memory_info().rss / 1e6


def throughput_rows(seconds: float) -> list[Row]:
    """Bars 1 and 2, for each way to share out the processors."""
    processors = usable_processors()
    data = TILE.read_bytes()
    alone, crowd = LanePlan(1, processors), LanePlan(processors, 1)
    bare: dict[LanePlan, Bare] = {}
    on_cpu: list[Bare] = []
    host: HostWork | None = None
    for plan in (alone, crowd):
        session = open_session(plan.lanes, plan.threads)
        bare[plan] = measure_bare(session, plan.lanes, data, seconds)
        host = host or measure_host_work(session, data, 30)
        default = open_session(plan.lanes, plan.threads, "cpu", "fp32")
        on_cpu.append(measure_bare(default, plan.lanes, data, seconds))
    # What the service chooses by itself is measured without settings (RuntimeOptions.on).
    names = [
        f"elastic, {processors} lanes or {processors} threads",
        f"1 lane x {processors} threads",
        f"{processors} lanes x 1 thread",
    ]
    usual = names[0] if session.provider == CPU_PROVIDER else names[1]
    elastic = {"concurrency": str(processors), "alone_threads": str(processors)}
    layouts: dict[str, tuple[LanePlan, LanePlan, dict[str, str]]] = {
        names[0]: (alone, crowd, elastic),
        names[1]: (alone, alone, {"concurrency": "1"}),
        names[2]: (crowd, crowd, {"concurrency": str(processors)}),
    }
    layouts[usual] = (*layouts[usual][:2], {})
    if host is None:
        raise RuntimeError("no loop was measured")
    ceiling = max(item.tiles_per_s for item in bare.values())
    with_host = 1.0 / (1.0 / ceiling + host.counted_ms / 1000.0 / processors)
    reference = max(item.tiles_per_s for item in on_cpu)
    rows = [
        Row(
            "1 host work a tile",
            f"<= {BAR_MS:.0f} ms",
            f"{host.counted_ms:.1f} ms ({host.nuclei} nuclei); all stages {host.total_ms:.1f} ms",
            host.counted_ms <= BAR_MS,
        ),
        Row(
            "1 the ceiling",
            "-",
            f"{ceiling:.2f} tiles/s, {with_host:.2f} with the host work; default provider at fp32"
            f" {reference:.2f}",
        ),
    ]
    for layout, (one, many, settings) in layouts.items():
        name = f"{layout} (default)" if layout == usual else layout
        lone, full, processor_ms, memory_mb = measure_service(settings, data, seconds)
        own, busy = bare[one], bare[many]
        over_ms = lone.p50_ms - own.p50_ms
        apart_ms = host.counted_ms + host.stages_ms["answer, signed"]
        rest_ms = over_ms - apart_ms
        rows += [
            Row(
                f"1 saturated, {name}, {own.name}",
                f">= {CEILING_BAR} of the ceiling with the host work",
                f"{full.requests_per_s:.2f} requests/s, {full.requests_per_s / with_host:.2f};"
                f" {memory_mb:.0f} MB",
                full.requests_per_s >= CEILING_BAR * with_host,
            ),
            Row(
                f"1 processor time a tile, {name}",
                "-",
                f"bare {busy.processor_ms:.0f} ms, with the host work"
                f" {busy.processor_ms + host.counted_ms:.0f}, service {processor_ms:.0f} ms:"
                f" {(busy.processor_ms + host.counted_ms) / processor_ms:.2f}",
            ),
            Row(
                f"2 one by one, {name}",
                f"<= {OVERHEAD_BAR_MS:.0f} ms over bare and decoding, separation, answer",
                f"p50 {lone.p50_ms:.1f} ms, bare {own.p50_ms:.1f} ms: {over_ms:.1f} ms over it,"
                f" {rest_ms:.1f} ms without the {apart_ms:.1f} ms measured apart",
                rest_ms <= OVERHEAD_BAR_MS,
            ),
            Row(
                f"1 end to end, {name}",
                f">= {DEFAULT_PROVIDER_BAR:.0f} of the default provider at fp32",
                f"{full.requests_per_s / reference:.2f}",
                full.requests_per_s >= DEFAULT_PROVIDER_BAR * reference,
            ),
        ]
    return rows


def overload_rows(seconds: float) -> list[Row]:
    """Bar 3."""
    arguments = argparse.Namespace(seconds=seconds, factor=2.0, returning=0.2)
    with running_service(embedded_models_dir(), 0) as (server, port):
        outcome, goodput, peak = asyncio.run(overload.measure(port, server, arguments))
    refused, back = outcome.statuses[503], outcome.retries
    others = overload.other_answers(outcome)
    probes_ms = float(np.percentile(outcome.probes_ms, 99))
    memory = outcome.resident_mb
    return [
        Row(
            "3 goodput at twice the peak",
            f">= {overload.GOODPUT_BAR} of it",
            f"{goodput:.2f} of {peak:.2f} requests/s: {goodput / peak:.2f}",
            goodput >= overload.GOODPUT_BAR * peak,
        ),
        Row(
            "3 refusals",
            "503 with Retry-After, nothing else",
            f"{refused}, {outcome.bare_refusals} without; others: {others or 'none'}",
            not outcome.bare_refusals and not others,
        ),
        Row(
            "3 who came back as told",
            "is answered",
            f"{back[200]} of {back.total()}",
            back[200] == back.total(),
        ),
        Row(
            "3 probes, p99",
            f"< {overload.PROBE_BAR_MS:.0f} ms",
            f"{probes_ms:.1f} ms of {len(outcome.probes_ms)}",
            probes_ms < overload.PROBE_BAR_MS,
        ),
        Row("3 memory", "flat", f"{memory[0]:.0f} MB, at last {memory[-1]:.0f} MB"),
    ]


def swap_rows(requests: int) -> list[Row]:
    """Bar 5."""
    done = run_module("benchmarks.model_swap", "--requests", str(requests))
    words = (done.stdout.splitlines() or [done.stderr[-300:]])[0]
    return [Row("5 swaps under load", "no failed or mixed answer", words, done.returncode == 0)]


def memory_rows(requests: int) -> list[Row]:
    """Bar 6."""
    steps = steady_memory.measure(embedded_models_dir(), requests, concurrency=4)
    return [
        Row(
            f"6 memory over {requests} requests",
            f"within {steady_memory.BAR:.0%}",
            f"{steps.resident_mb[0]:.0f} MB after a tenth, {steps.resident_mb[-1]:.0f} MB at last:"
            f" {steps.growth:+.1%} in {steps.seconds:.0f} s",
            abs(steps.growth) <= steady_memory.BAR,
        )
    ]


def main() -> int:
    """Measure everything, print the table, and return 0 when all bars are held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Of all times and counts.")
    parser.add_argument("--peers", default="FastAPI + onnxruntime,LitServe", help="Or none.")
    parser.add_argument("--only", default="", help="Steps, with commas between; default all.")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "serving-bars.md")
    arguments = parser.parse_args()
    scale: float = arguments.scale
    facts = machine_facts()
    steps: dict[str, Callable[[], list[Row]]] = {
        "throughput": lambda: throughput_rows(8.0 * scale),
        "overload": lambda: overload_rows(20.0 * scale),
        "swaps": lambda: swap_rows(max(20, int(1000 * scale))),
        "memory": lambda: memory_rows(max(20, int(10_000 * scale))),
    }
    if arguments.peers != "none":
        steps["peers"] = lambda: peer_rows(arguments.peers, 6.0 * scale)
    chosen = {name for name in arguments.only.split(",") if name} or set(steps)
    if unknown := chosen - set(steps):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(steps)}")
    rows: list[Row] = []
    start_s = time.perf_counter()
    for name, step in steps.items():
        if name not in chosen:
            continue
        print(f"{name} ... ({time.perf_counter() - start_s:.0f} s)", file=sys.stderr, flush=True)
        try:
            rows += step()
        except Exception as error:  # noqa: BLE001  the other bars are measured all the same
            rows.append(Row(name, "-", f"failed: {error}", False))
    text = f"{table(rows)}\n\n{facts_sentence(facts)} Background load {facts['background_load']}"
    text += f" before, {background_load():.1f} after."
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(row.held is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
