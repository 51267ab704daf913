"""Karyon beside other servers: the same ONNX file, the same client, one table (`make bench-peers`).

    python -m benchmarks.peers.run [--only karyon,LitServe] [--seconds 20] [--publish]

One 512x512 JPEG tile to a count in JSON, at rising concurrency, one server after the other. The
ceiling is a loop in one process without any server. The peers threshold and count regions; Karyon
also tiles, separates touching nuclei, measures each and checks quality: it does more. Each server
has to give the ceiling's count (Karyon its own) before it is measured. Memory is the proportional
set size of all processes of a server, after its last window.

Karyon has two rows: on the peers' provider and precision, and with its own choice of both.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load_report import percentile
from benchmarks.machine import background_load, facts_sentence, is_contended, machine_facts
from benchmarks.peers.environments import PeerInstallError, make_environment
from benchmarks.peers.processes import Server, free_port, memory_mb, running
from benchmarks.peers.table import KERAS_PEER, PEERS, Peer, raw
from benchmarks.publish import (
    PERFORMANCE_PAGE,
    REPOSITORY,
    markdown_table,
    replace_section,
    write_figures,
)
from service.inference.processors import usable_processors
from service.inference.repository import embedded_models_dir
from service.settings import Settings

SERVERS = Path(__file__).resolve().parent / "servers"
TILE = REPOSITORY / "tests" / "load" / "images" / "tnbc_p07_1.jpg"
PUBLISHED = REPOSITORY / "docs" / "results" / "peers"
CEILING = "bare onnxruntime loop"
KARYON = "Karyon"
# The client shares the processors: the machine is to rest between two windows.
REST_S = 4.0
WARM_UP_S = 3.0


@dataclass(frozen=True)
class Window:
    """One server at one concurrency.

    Attributes:
        server: Its name in the table.
        layout: Worker processes x threads of each.
        concurrency: Connections that ask at once.
        requests_per_s: Answers 200 a second.
        p50_ms: Their median latency.
        p99_ms: Their 99th percentile.
        errors: Everything else.
        memory_mb: Of the whole server; None for the ceiling.
    """

    server: str
    layout: str
    concurrency: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    memory_mb: float | None


def request_bytes(path: str, content_type: str, body: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nAccept: application/json\r\n\r\n"
    )
    return head.encode("ascii") + body


def window(name: str, layout: str, concurrency: int, output: str, memory: float | None) -> Window:
    """Read what the client (or the ceiling) printed."""
    report = json.loads(output.splitlines()[-1])
    latencies_ms: list[float] = report["latencies_ms"]
    return Window(
        name,
        layout,
        concurrency,
        len(latencies_ms) / report["elapsed_s"],
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


def run_client(request: Path, port: int, concurrency: int, seconds: float) -> str:
    """Run the client in a process of its own and return its line."""
    command = [sys.executable, "-m", "benchmarks.peers.client", str(request)]
    command += ["--port", str(port), "--concurrency", str(concurrency), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout


def measure_ceiling(
    python: Path, environment: Mapping[str, str], options: argparse.Namespace
) -> tuple[list[Window], int]:
    """Run the bare loop at each concurrency; return the windows and the count."""
    windows: list[Window] = []
    count = 0
    for concurrency in options.concurrency:
        command = [str(python), str(SERVERS / "bare.py"), str(TILE)]
        command += ["--concurrency", str(concurrency), "--seconds", str(options.seconds)]
        output = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        ).stdout
        count = counted(output)
        windows.append(
            window(CEILING, f"1 x {environment['PEER_THREADS']}", concurrency, output, None)
        )
        print(windows[-1], flush=True)
        time.sleep(REST_S)
    return windows, count


def measure_server(
    server: Server, expected: int | None, options: argparse.Namespace
) -> list[Window]:
    """Start a server, check its count, and run the client at each concurrency.

    Args:
        server: How it is started and asked.
        expected: The count that it has to give; None for any.
        options: Command line: `concurrency`, `seconds`.

    Raises:
        RuntimeError: It does not start, or counts otherwise.
    """
    windows: list[Window] = []
    with tempfile.TemporaryDirectory() as folder, running(server) as process:
        request = Path(folder) / "request"
        request.write_bytes(server.request)
        count = counted(run_client(request, server.port, 1, WARM_UP_S))
        if expected is not None and count != expected:
            raise RuntimeError(f"{server.name} counts {count}, the ceiling {expected}")
        for concurrency in options.concurrency:
            output = run_client(request, server.port, concurrency, options.seconds)
            memory = memory_mb(process)
            windows.append(window(server.name, server.layout, concurrency, output, memory))
            print(windows[-1], flush=True)
            time.sleep(REST_S)
    return windows


def layouts(peer: Peer, processors: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try."""
    whole = [(1, processors)]
    return [*whole, (processors, 1)] if peer.several_workers and processors > 1 else whole


def peer_server(peer: Peer, python: Path, workers: int, environment: Mapping[str, str]) -> Server:
    """Return how to start a peer."""
    port = free_port()
    command = [part.format(port=port, workers=workers) for part in peer.command]
    return Server(
        peer.name,
        f"{workers} x {environment['PEER_THREADS']}",
        [str(python), *command],
        port,
        request_bytes(peer.path, *peer.encode(TILE.read_bytes())),
        {**environment, "PEER_WORKERS": str(workers), "PEER_PORT": str(port)},
        SERVERS,
    )


def karyon_server(name: str, settings: Mapping[str, str]) -> Server:
    """Return how to start Karyon, with `settings` as far as this version of it has them."""
    port = free_port()
    known = {
        f"KARYON_{field.upper()}": value
        for field, value in settings.items()
        if field in Settings.model_fields
    }
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning"]
    request = request_bytes("/segment", *raw(TILE.read_bytes()))
    return Server(name, "own", command, port, request, known, REPOSITORY)


def best(windows: Sequence[Sequence[Window]]) -> Sequence[Window]:
    """Return the layout of the highest throughput at any concurrency."""
    return max(windows, key=lambda rows: max(row.requests_per_s for row in rows))


def table(windows: Sequence[Window], concurrencies: Sequence[int]) -> str:
    """Return requests/s, p50 and p99 by concurrency, and memory, as Markdown."""
    header = ["server", "workers x threads"]
    header += [f"{c}: requests/s, p50, p99 ms" for c in concurrencies] + ["errors", "memory MB"]
    rows = []
    for name in dict.fromkeys(row.server for row in windows):
        own = [row for row in windows if row.server == name]
        cells = [f"{r.requests_per_s:.1f}, {r.p50_ms:.0f}, {r.p99_ms:.0f}" for r in own]
        memory = own[-1].memory_mb
        errors = str(sum(row.errors for row in own))
        shown = "-" if memory is None else f"{memory:.0f}"
        rows.append([name, own[0].layout, *cells, errors, shown])
    return markdown_table(header, rows)


def plot(windows: Sequence[Window], path: Path) -> None:
    """Draw throughput and p99 against concurrency."""
    import matplotlib as mpl  # noqa: PLC0415  slow to load, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the backend is chosen

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(row.server for row in windows):
        own = [row for row in windows if row.server == name]
        style = "--" if name == CEILING else "-"
        at = [row.concurrency for row in own]
        left.plot(at, [row.requests_per_s for row in own], style, marker="o", label=name)
        right.plot(at, [row.p99_ms for row in own], style, marker="o", label=name)
    left.set(xlabel="concurrency", title="requests/s", xscale="log")
    right.set(xlabel="concurrency", title="p99, ms", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure_all(options: argparse.Namespace) -> tuple[list[Window], list[str]]:
    """Measure everything that was asked for; return the windows and what failed, and why."""
    processors = usable_processors()
    model = next(embedded_models_dir().glob("*/*/model.onnx"))
    environment = {"PEER_MODEL": str(model), "PYTHONPATH": str(SERVERS)}
    whole = {**environment, "PEER_THREADS": str(processors)}
    python = make_environment(options.environments, PEERS[0])
    windows, count = measure_ceiling(python, whole, options)
    failed: list[str] = []
    peers = [*PEERS]
    if options.keras_model is not None:
        peers.append(KERAS_PEER)
        environment["PEER_KERAS"] = str(options.keras_model.resolve())
    for peer in (peer for peer in peers if options.wants(peer.name)):
        tried: list[list[Window]] = []
        for workers, threads in layouts(peer, processors):
            try:
                python = make_environment(options.environments, peer)
                own = {**environment, "PEER_THREADS": str(threads)}
                server = peer_server(peer, python, workers, own)
                expected = None if peer is KERAS_PEER else count
                tried.append(measure_server(server, expected, options))
            except (PeerInstallError, RuntimeError, subprocess.CalledProcessError) as error:
                failed.append(f"{peer.name}, {workers} x {threads}: {error}")
                print(f"FAILED {failed[-1]}", flush=True)
        if tried:
            windows += best(tried)
    if options.wants(KARYON):
        same = karyon_server(f"{KARYON}, cpu fp32", {"provider": "cpu", "precision": "fp32"})
        for server in (same, karyon_server(f"{KARYON}, own choice", {})):
            windows += measure_server(server, None, options)
    return windows, failed


def main() -> int:
    """Measure, write, and return 0 when every server ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Names from the table, with commas between.")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each window.")
    parser.add_argument("--keras-model", type=Path, default=None, help="The .keras of a run.")
    parser.add_argument("--environments", type=Path, default=REPOSITORY / ".venv-peers")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "peers")
    parser.add_argument("--publish", action="store_true", help="Write to docs/.")
    options = parser.parse_args()
    options.concurrency = [int(value) for value in options.concurrency.split(",")]
    chosen = {name.strip().lower() for name in options.only.split(",") if name.strip()}
    options.wants = lambda name: not chosen or name.lower() in chosen
    if options.publish and is_contended():
        print(f"refused: background load {background_load():.1f}; wait, or leave out --publish")
        return 2

    facts = machine_facts()
    windows, failed = measure_all(options)
    folder: Path = PUBLISHED if options.publish else options.out
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "windows": [asdict(row) for row in windows], "failed": failed}
    write_figures(folder / "peers.json", document)
    plot(windows, folder / "peers.png")
    text = table(windows, options.concurrency)
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
