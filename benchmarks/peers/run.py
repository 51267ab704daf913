"""Karyon beside other servers: the same ONNX file, the same client, one table (`make bench-peers`).

    python -m benchmarks.peers.run [--only karyon,LitServe] [--seconds 5] [--publish]

One 512x512 JPEG tile to a count in JSON, at rising concurrency, one server after the other. The
ceiling is a loop in one process without any server. The peers threshold and count regions; Karyon
also tiles, separates touching nuclei, measures each and checks quality: it does more. Each server
has to give the ceiling's count (Karyon its own) before it is measured. Before and after each window
the bare loop runs for some seconds, and servers are compared by what they have of it: they are
measured minutes apart. Memory is the proportional set size of all processes of a server, after its
last window; processor time is theirs too.

Every peer is tried in two layouts (one worker with all threads; a one-thread worker for each
processor), and the one that answers more at four connections goes on to more of them. Karyon runs
as it does without a setting, with lanes that follow the load. It has a waiting room for all
connections, as its peers have; and two rows, on the peers' provider and precision and with its own
choice of both.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from benchmarks.load_report import percentile
from benchmarks.machine import background_load, facts_sentence, is_contended, machine_facts
from benchmarks.peers.control import Control, run_loop
from benchmarks.peers.environments import PeerInstallError, make_environment
from benchmarks.peers.launch import (
    DEFAULT_LAYOUT,
    SERVERS,
    Layout,
    karyon_server,
    keras_file,
    layouts,
    peer_server,
)
from benchmarks.peers.processes import Server, memory_mb, processor_s, running
from benchmarks.peers.results import (
    CEILING,
    KARYON_AS_IT_IS,
    KARYON_ON_CPU,
    Window,
    answers_sentence,
    better,
    compare,
    comparison_table,
    plot,
    table,
)
from benchmarks.peers.table import PEERS
from benchmarks.publish import PERFORMANCE_PAGE, REPOSITORY, replace_section, write_figures
from service.inference.processors import usable_processors
from service.inference.repository import embedded_models_dir

PUBLISHED = REPOSITORY / "docs" / "results" / "peers"
KARYON = "Karyon"
# The client shares the processors: the machine is to rest between two windows.
REST_S = 1.5
WARM_UP_S = 1.0
# With so many connections every processor of a small machine has work in both layouts.
DECIDES_AT = 4
PEERS_CHOICE = {"provider": "cpu", "precision": "fp32"}

Ask = Callable[[int, bool], Window]
FAILURES = (PeerInstallError, RuntimeError, subprocess.CalledProcessError, OSError)


def window(name: str, layout: str, concurrency: int, output: str, memory: float | None) -> Window:
    """Read what the client (or the ceiling) printed."""
    report = json.loads(output.splitlines()[-1])
    latencies_ms: list[float] = report["latencies_ms"]
    return Window(
        name,
        layout,
        concurrency,
        len(latencies_ms),
        len(latencies_ms) / report["elapsed_s"] if report["elapsed_s"] else 0.0,
        percentile(latencies_ms, 50),
        percentile(latencies_ms, 99),
        report["errors"],
        memory,
    )


def counted(output: str) -> int:
    """Return the count in the last body; JSON within JSON is looked into.

    Raises:
        RuntimeError: There is none.
    """
    body = json.loads(output.splitlines()[-1])["body"]
    found = re.search(r'count\\?"\s*:\s*(\d+)', body)
    if found is None:
        raise RuntimeError(f"no count in {body[:300]!r}")
    return int(found.group(1))


def answers_in_all(output: str) -> int:
    """Return how many answers the client got, those outside of its window included."""
    return int(json.loads(output.splitlines()[-1])["in_all"])


def provider_of(output: str) -> str:
    """Return the provider and precision that Karyon's last answer names."""
    body = json.loads(output.splitlines()[-1])["body"]
    named = [re.search(rf'"{key}":"(\w+)"', body) for key in ("provider", "precision")]
    return " ".join(found[1] for found in named if found)


def run_client(
    request: Path, port: int, concurrency: int, seconds: float, *, abandon: bool = False
) -> str:
    """Run the client in a process of its own and return its line."""
    command = [sys.executable, "-m", "benchmarks.peers.client", str(request)]
    command += ["--port", str(port), "--concurrency", str(concurrency), "--seconds", str(seconds)]
    command += ["--abandon"] if abandon else []
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout


def measure_ceiling(
    python: Path, environment: Mapping[str, str], options: argparse.Namespace
) -> tuple[list[Window], int]:
    """Run the bare loop in each layout; return the windows and the count.

    A loop has no clients that wait: beyond its own threads it carries the same, and has no latency.
    """
    windows: list[Window] = []
    count = 0
    for loops, threads in layouts(usable_processors(), several=True):
        output = run_loop(python, environment, loops, threads, options.seconds)
        count = counted(output)
        measured = window(CEILING, f"{loops} x {threads}", loops, output, None)
        taken_s: float = json.loads(output.splitlines()[-1])["processor_s"]
        measured = replace(measured, processor_ms=1000.0 * taken_s / max(1, measured.answers))
        beyond = {**asdict(measured), "p50_ms": float("nan"), "p99_ms": float("nan")}
        for concurrency in options.concurrency:
            if concurrency == loops:
                windows.append(measured)
            elif concurrency > loops:
                windows.append(Window(**{**beyond, "concurrency": concurrency}))
        print(measured, flush=True)
        time.sleep(REST_S)
    return windows, count


@contextmanager
def asking(server: Server, expected: int | None, options: argparse.Namespace) -> Iterator[Ask]:
    """Run a server, check its count, and yield what measures it at a concurrency.

    Args:
        server: How it is started and asked.
        expected: The count that it has to give; None for any.
        options: Command line: `seconds`; `control`, the bare loop to run before and after, or None.

    Raises:
        RuntimeError: It does not start, or counts otherwise.
    """
    control: Control | None = options.control
    with tempfile.TemporaryDirectory() as folder, running(server) as process:
        request = Path(folder) / "request"
        request.write_bytes(server.request)
        output = run_client(request, server.port, DECIDES_AT, WARM_UP_S)
        count = counted(output)
        if expected is not None and count != expected:
            raise RuntimeError(f"{server.name} counts {count}, the ceiling {expected}")
        print(f"{server.name} {server.layout}: counts {count} {provider_of(output)}", flush=True)

        def ask(concurrency: int, last: bool) -> Window:
            time.sleep(REST_S)
            bare_per_s = [] if control is None else [control.per_s(concurrency)]
            before_s = processor_s(process)
            answer = run_client(request, server.port, concurrency, options.seconds, abandon=last)
            taken_s = processor_s(process) - before_s
            row = replace(
                window(server.name, server.layout, concurrency, answer, memory_mb(process)),
                processor_ms=None if last else 1000.0 * taken_s / max(1, answers_in_all(answer)),
            )
            # A server that was left with its queue full is still at work on it.
            if control is not None and not last:
                bare_per_s.append(control.per_s(concurrency))
            if bare_per_s:
                row = replace(row, bare_per_s=statistics.fmean(bare_per_s))
            print(row, flush=True)
            return row

        yield ask


def measure(
    make: Callable[[Layout], Server],
    candidates: Sequence[Layout],
    expected: int | None,
    options: argparse.Namespace,
) -> tuple[list[Window], list[str]]:
    """Measure a server in all its layouts at few connections, in the better one at more.

    Returns:
        What was measured, and what failed, and why.
    """
    early = [c for c in options.concurrency if c <= DECIDES_AT] or options.concurrency[:1]
    late = [c for c in options.concurrency if c not in early]
    tried: dict[Layout, list[Window]] = {}
    failed: list[str] = []

    def run(layout: Layout, first: Sequence[int], then: Sequence[int]) -> None:
        """Measure at `first`, and at `then` if no other layout was better so far."""
        server = make(layout)
        try:
            with asking(server, expected, options) as ask:
                if first:
                    tried[layout] = [ask(concurrency, False) for concurrency in first]
                if then and better(list(tried.values())) is tried[layout]:
                    for concurrency in then:
                        tried[layout].append(ask(concurrency, concurrency == then[-1]))
        except FAILURES as error:
            failed.append(f"{server.name}, {server.layout}: {error}")
            print(f"FAILED {failed[-1]}", flush=True)

    for layout in candidates:
        run(layout, early, late if layout == candidates[-1] else [])
    if late and tried and max(len(rows) for rows in tried.values()) <= len(early):
        best = better(list(tried.values()))
        run(next(layout for layout, rows in tried.items() if rows is best), [], late)
    return [row for rows in tried.values() for row in rows], failed


def measure_all(options: argparse.Namespace) -> tuple[list[Window], list[str]]:
    """Measure everything that was asked for; return the windows and what failed, and why."""
    processors = usable_processors()
    model = next(embedded_models_dir().glob("*/*/model.onnx"))
    environment = {"PEER_MODEL": str(model), "PYTHONPATH": str(SERVERS)}
    python = make_environment(options.environments, PEERS[0])
    windows, count = measure_ceiling(python, environment, options)
    options.control = Control(python, environment, processors)
    failed: list[str] = []
    for peer in (peer for peer in PEERS if options.wants(peer.name)):
        try:
            own = dict(environment)
            if peer.keras:
                own["PEER_KERAS"] = str(keras_file(model, options.environments).resolve())
            own_python = make_environment(options.environments, peer)
        except FAILURES as error:
            failed.append(f"{peer.name}: {error}")
            print(f"FAILED {failed[-1]}", flush=True)
            continue
        rows, reasons = measure(
            partial(peer_server, peer, own_python, own),
            layouts(processors, several=peer.several_workers),
            count,
            options,
        )
        windows += rows
        failed += reasons
    if options.wants(KARYON):
        rows, reasons = measure_karyon(options)
        windows += rows
        failed += reasons
    return windows, failed


def measure_karyon(options: argparse.Namespace) -> tuple[list[Window], list[str]]:
    """Measure Karyon on the peers' provider, and with its own choice where that is another."""
    most = max(options.concurrency)
    windows: list[Window] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        # Each start has its records to itself: an older database would be another work load.
        same = partial(karyon_server, KARYON_ON_CPU, PEERS_CHOICE, Path(folder) / "same", most)
        own = partial(karyon_server, KARYON_AS_IT_IS, {}, Path(folder) / "own", most)
        makes = [same] if chooses_the_same(own(DEFAULT_LAYOUT)) else [same, own]
        for make in makes:
            rows, reasons = measure(make, [DEFAULT_LAYOUT], None, options)
            windows += rows
            failed += reasons
    return windows, failed


def chooses_the_same(server: Server) -> bool:
    """Say whether Karyon by itself takes the peers' provider and precision on this machine."""
    with tempfile.TemporaryDirectory() as folder, running(server):
        request = Path(folder) / "request"
        request.write_bytes(server.request)
        named = provider_of(run_client(request, server.port, 1, 0.0))
    print(f"{KARYON} by itself takes {named}", flush=True)
    return named == "CPUExecutionProvider fp32"


def main() -> int:
    """Measure, write, and return 0 when every server ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Names from the table, with commas between.")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each window, at least.")
    parser.add_argument("--environments", type=Path, default=REPOSITORY / ".venv-peers")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "peers")
    parser.add_argument("--publish", action="store_true", help="Write to docs/.")
    options = parser.parse_args()
    options.concurrency = sorted(int(value) for value in options.concurrency.split(","))
    chosen = {name.strip().lower() for name in options.only.split(",") if name.strip()}
    options.wants = lambda name: not chosen or name.lower() in chosen
    if options.publish and is_contended():
        print(f"refused: background load {background_load():.1f}; wait, or leave out --publish")
        return 2

    facts = machine_facts()
    begin_s = time.monotonic()
    windows, failed = measure_all(options)
    minutes = (time.monotonic() - begin_s) / 60.0
    folder: Path = PUBLISHED if options.publish else options.out
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "windows": [asdict(row) for row in windows], "failed": failed}
    write_figures(folder / "peers.json", document)
    plot(windows, folder / "peers.png")
    text = table(windows, options.concurrency)
    if comparisons := compare(windows):
        text = f"{comparison_table(comparisons)}\n\n{text}"
    text = f"{text}\n\n{answers_sentence(windows)} The run took {minutes:.0f} minutes."
    print(text)
    if options.publish:
        picture = "![Throughput and p99 against concurrency](results/peers/peers.png)"
        names = "; ".join(reason.split(":", 1)[0] for reason in failed)
        notes = f"\n\nDid not run, for the reasons in peers.json: {names}." if failed else ""
        text = f"{text}\n\n{facts_sentence(facts)}{notes}\n\n{picture}"
        replace_section(PERFORMANCE_PAGE, "peers", text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
