"""Lines of the table of bars, and those that other programs measure."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.results import Comparison, Window, compare
from benchmarks.publish import REPOSITORY, markdown_table


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
    rows = [_peer_row(one) for one in compare([Window(**row) for row in document["windows"]])]
    rows += [Row("4 did not run", "-", reason, False) for reason in document["failed"]]
    return rows


def _peer_row(one: Comparison) -> Row:
    chosen = f"{one.ratio:.2f}" if one.own else f"the same, {one.ratio:.2f}"
    return Row(
        f"4 best of the peers, {one.concurrency} connections",
        "more requests/s and lower p99 on the same provider; own choice 6 times",
        f"{one.same.speed:.2f} of a bare loop beside it against {one.peer.speed:.2f}"
        f" ({one.peer.server}), p99 {one.same.delay:.1f} against {one.soonest.delay:.1f} runs of"
        f" that loop ({one.soonest.server}); own choice {chosen}",
        one.held,
    )


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
