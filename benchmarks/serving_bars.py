"""All bars of serving in one run, one table: throughput, overhead, overload, swaps, memory, peers.

    python -m benchmarks.serving_bars [--scale 1.0] [--peers "FastAPI + onnxruntime,LitServe"]

Some twelve minutes on two idle processors, after the environments of the peers have been made once
(`make bench-peers`); `--scale 0.1 --peers none` tries it out. Every bar is a ratio within this run,
or a time that a busy machine only makes longer; one tile is 512x512 JPEG.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import overload, steady_memory
from benchmarks.bars import Row, peer_rows, run_module, table
from benchmarks.http_overhead import running_service
from benchmarks.machine import background_load, facts_sentence, machine_facts
from benchmarks.publish import REPOSITORY
from benchmarks.throughput_bars import throughput_rows
from service.inference.repository import embedded_models_dir


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
        Row(
            "3 memory",
            f"flat: within {overload.MEMORY_BAR:.0%} once the queue is full",
            f"{memory[0]:.0f} MB, {memory[len(memory) // 2]:.0f} MB at half time,"
            f" {memory[-1]:.0f} MB at last: {outcome.memory_growth:+.1%} since half time",
            outcome.memory_growth <= overload.MEMORY_BAR,
        ),
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
