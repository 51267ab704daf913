"""Lines of the table of bars, and those that other programs measure."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.publish import REPOSITORY, markdown_table

TIMES_THE_BEST_BAR = 6.0
KARYON_ON_CPU = "Karyon, cpu fp32"
KARYON_AS_IT_IS = "Karyon, own choice"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        bar: Its number in the issue, and what is meant.
        wanted: What it asks for.
        measured: What came out.
        held: Whether that is enough; None where nothing is asked.
    """

    bar: str
    wanted: str
    measured: str
    held: bool | None = None


def peer_rows(names: str, seconds: float) -> list[Row]:
    """Bar 4, as far as the peers named are concerned."""
    done = run_module(
        "benchmarks.peers.run", "--only", f"{names},Karyon", "--seconds", f"{seconds:g}",
        "--concurrency", "1,4,16",
    )  # fmt: skip
    path = REPOSITORY / "out" / "peers" / "peers.json"
    if not path.is_file():
        return [Row("4 peers", "each measured", done.stderr[-300:], False)]
    document = json.loads(path.read_text(encoding="utf-8"))
    by_server: dict[str, dict[int, dict[str, float]]] = {}
    for window in document["windows"]:
        by_server.setdefault(window["server"], {})[window["concurrency"]] = window
    peers = {name: by_server[name] for name in names.split(",") if name in by_server}
    rows = []
    for concurrency, own in by_server[KARYON_ON_CPU].items():
        chosen = by_server[KARYON_AS_IT_IS][concurrency]
        for name, windows in peers.items():
            peer = windows[concurrency]
            more = own["requests_per_s"] > peer["requests_per_s"]
            sooner = own["p99_ms"] < peer["p99_ms"]
            ratio = chosen["requests_per_s"] / peer["requests_per_s"]
            rows.append(
                Row(
                    f"4 {name}, {concurrency} connections",
                    "more requests/s and lower p99 on the same provider; own choice 6 times",
                    f"{own['requests_per_s']:.2f} against {peer['requests_per_s']:.2f}, p99"
                    f" {own['p99_ms']:.0f} against {peer['p99_ms']:.0f} ms; own choice {ratio:.2f}",
                    more and sooner and ratio >= TIMES_THE_BEST_BAR,
                )
            )
    rows += [Row("4 did not run", "-", reason, False) for reason in document["failed"]]
    return rows


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this repository to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    said = {True: "held", False: "**not held**", None: "-"}
    cells = [[row.bar, row.wanted, row.measured, said[row.held]] for row in rows]
    return markdown_table(["bar", "wanted", "measured", ""], cells)
