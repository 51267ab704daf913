"""Offers the laboratory mix at rising rates, and writes table and plot of docs/performance.md.

    python -m benchmarks.load_report --rates 1,2,4,8 --seconds 60

For each rate a fresh service gets the open-loop load of tests/load/locustfile.py. Figures and plot
go to `--out`; with `--publish` they go to docs/, which is refused where something else uses the
machine: the tail would be its tail.
"""

import argparse
import csv
import math
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.http_overhead import running_service
from benchmarks.machine import background_load, facts_sentence, is_contended, machine_facts
from benchmarks.publish import (
    PERFORMANCE_PAGE,
    REPOSITORY,
    markdown_table,
    replace_section,
    write_figures,
)
from service.inference.repository import embedded_models_dir

LOCUSTFILE = REPOSITORY / "tests" / "load" / "locustfile.py"
PUBLISHED = REPOSITORY / "docs" / "results" / "load"
PROBE = "probe"
BAD = "bad: "


@dataclass(frozen=True)
class Row:
    """One offered rate.

    Attributes:
        offered_per_s: Scheduled arrivals a second.
        goodput_per_s: Images answered a second.
        p50_ms: Median latency of answered images, from the scheduled arrival.
        p99_ms: The same, 99th percentile.
        probe_p99_ms: Of the readiness probes among them.
        refused: Images refused with a Retry-After.
        too_late: Images past their callers' deadlines.
        errors: Requests that got anything else than expected.
        peak_mb: Largest resident memory of the service.
        start_lag_p99_ms: How late the generator itself was.
    """

    offered_per_s: float
    goodput_per_s: float
    p50_ms: float
    p99_ms: float
    probe_p99_ms: float
    refused: int
    too_late: int
    errors: int
    peak_mb: float
    start_lag_p99_ms: float


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile by nearest rank; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100.0))]


def read_row(samples: Path, rate_per_s: float, seconds: float, peak_mb: float) -> Row:
    """Summarise the samples of one run.

    Args:
        samples: The CSV file that tests/load/arrivals.py wrote.
        rate_per_s: The rate that was offered.
        seconds: For how long.
        peak_mb: Largest resident memory of the service meanwhile.
    """
    with samples.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [row for row in rows if row["name"] != PROBE and not row["name"].startswith(BAD)]
    answered_ms = [float(row["latency_ms"]) for row in images if row["outcome"] == "answered"]
    probes_ms = [float(row["latency_ms"]) for row in rows if row["name"] == PROBE]
    lags_ms = [float(row["start_lag_ms"]) for row in rows]
    # Answers that came after the schedule ended took longer than it: goodput counts until the last.
    last_s = max(float(row["scheduled_s"]) + float(row["latency_ms"]) / 1000.0 for row in rows)
    first_s = min(float(row["scheduled_s"]) for row in rows)
    return Row(
        offered_per_s=rate_per_s,
        goodput_per_s=len(answered_ms) / max(seconds, last_s - first_s),
        p50_ms=percentile(answered_ms, 50),
        p99_ms=percentile(answered_ms, 99),
        probe_p99_ms=percentile(probes_ms, 99),
        refused=sum(row["outcome"] == "refused" for row in rows),
        too_late=sum(row["outcome"] == "too late" for row in rows),
        errors=sum(row["outcome"] == "error" for row in rows),
        peak_mb=peak_mb,
        start_lag_p99_ms=percentile(lags_ms, 99),
    )


def offer(rate_per_s: float, seconds: int, models_dir: Path, samples: Path) -> Row:
    """Run a fresh service under one rate.

    Raises:
        RuntimeError: Locust wrote no samples.
    """
    samples.unlink(missing_ok=True)
    with running_service(models_dir, threads=0) as (process, port):
        stop = threading.Event()
        peaks = [0.0]

        def watch() -> None:
            while not stop.wait(0.5):
                peaks.append(process.memory_info().rss / 1e6)

        watcher = threading.Thread(target=watch)
        watcher.start()
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
        command += ["-u", "1", "--rate-per-user", str(rate_per_s), "-t", f"{seconds}s"]
        command += ["--host", f"http://127.0.0.1:{port}", "--samples", str(samples)]
        try:
            # Locust ends with 1 where a request failed; the table says so.
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            stop.set()
            watcher.join()
    if not samples.exists():
        raise RuntimeError(done.stderr)
    return read_row(samples, rate_per_s, seconds, max(peaks))


def plot(rows: list[Row], path: Path) -> None:
    """Draw goodput and latency against the offered rate."""
    import matplotlib as mpl  # noqa: PLC0415  slow to load, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the backend is chosen

    offered = [row.offered_per_s for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(offered, offered, color="0.7", linestyle="--", label="offered")
    left.plot(offered, [row.goodput_per_s for row in rows], marker="o", label="answered images")
    left.set(xlabel="offered requests/s", ylabel="a second", title="Goodput")
    right.plot(offered, [row.p99_ms for row in rows], marker="o", label="p99")
    right.plot(offered, [row.p50_ms for row in rows], marker="o", label="p50")
    right.plot(offered, [row.probe_p99_ms for row in rows], marker="o", label="p99 of probes")
    right.set(xlabel="offered requests/s", title="Latency from the scheduled arrival, ms")
    right.set_yscale("log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    header = ["offered/s", "images answered/s", "p50 ms", "p99 ms", "probes p99 ms", "refused"]
    header += ["too late", "errors", "memory MB", "generator late p99 ms"]
    return markdown_table(
        header,
        [
            [
                f"{row.offered_per_s:g}",
                f"{row.goodput_per_s:.2f}",
                *(
                    # A short row at a low rate may have had no probe at all.
                    "-" if math.isnan(value) else f"{value:.0f}"
                    for value in (row.p50_ms, row.p99_ms, row.probe_p99_ms)
                ),
                *(str(count) for count in (row.refused, row.too_late, row.errors)),
                *(f"{value:.0f}" for value in (row.peak_mb, row.start_lag_p99_ms)),
            ]
            for row in rows
        ],
    )


def main() -> int:
    """Measure, write, and return 0 unless a request got an unexpected answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="1,2,4,8", help="Arrivals a second.")
    parser.add_argument("--seconds", type=int, default=60, help="Of each rate.")
    parser.add_argument("--models-dir", type=Path, default=embedded_models_dir())
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "load")
    parser.add_argument("--publish", action="store_true", help="Write to docs/.")
    arguments = parser.parse_args()
    if arguments.publish and is_contended():
        print(f"refused: background load {background_load():.1f}; wait, or leave out --publish")
        return 2

    facts = machine_facts()
    folder: Path = PUBLISHED if arguments.publish else arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for rate in (float(value) for value in arguments.rates.split(",")):
        samples = folder / "samples.csv"
        rows.append(offer(rate, arguments.seconds, arguments.models_dir, samples))
        samples.unlink()
        print(rows[-1], flush=True)
    document = {"machine": facts, "seconds": arguments.seconds, "rows": [asdict(r) for r in rows]}
    write_figures(folder / "load.json", document)
    plot(rows, folder / "load.png")
    text = table(rows)
    print(text)
    if arguments.publish:
        picture = "![Goodput and latency against the offered rate](results/load/load.png)"
        text = f"{text}\n\n{facts_sentence(facts)}\n\n{picture}"
        replace_section(PERFORMANCE_PAGE, "load", text)
    return 1 if any(row.errors for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
