"""What was measured, as tables and a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.publish import markdown_table

CEILING = "bare onnxruntime loop"
KARYON_ON_CPU = "Karyon, cpu fp32"
KARYON_AS_IT_IS = "Karyon, own choice"
TIMES_THE_BEST_BAR = 6.0


@dataclass(frozen=True)
class Window:
    """One server in one layout at one concurrency.

    Attributes:
        server: Its name in the table.
        layout: Workers x threads of each.
        concurrency: Connections that ask at once.
        answers: Answers 200 in the window.
        requests_per_s: These a second.
        p50_ms: Their median latency; NaN where the ceiling has no clients.
        p99_ms: Their 99th percentile, of fewer than a hundred the largest.
        errors: Everything else.
        memory_mb: Of the whole server; None for the ceiling.
        processor_ms: Processor time of the whole server for one answer; None where it was not
            waited for all of them.
        bare_per_s: What the bare loop carried a second right before and after; None where it was
            not run.
    """

    server: str
    layout: str
    concurrency: int
    answers: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    memory_mb: float | None
    processor_ms: float | None = None
    bare_per_s: float | None = None

    @property
    def speed(self) -> float:
        """Requests/s over the bare loop's of the same minute; without one, requests/s."""
        return self.requests_per_s / (self.bare_per_s or 1.0)

    @property
    def delay(self) -> float:
        """The 99th percentile in runs of the bare loop of the same minute; without one, in s."""
        return self.p99_ms / 1000.0 * (self.bare_per_s or 1.0)


@dataclass(frozen=True)
class Comparison:
    """Karyon and its peers at one concurrency, each in its better layout there.

    Attributes:
        concurrency: Connections that ask at once.
        peer: The peer of most requests/s, as a share of the bare loop's of the same minute.
        soonest: The peer of the lowest p99, likewise.
        same: Karyon on the peers' provider and precision.
        own: Karyon with its own choice of both; None where that is the same.
    """

    concurrency: int
    peer: Window
    soonest: Window
    same: Window
    own: Window | None

    @property
    def ratio(self) -> float:
        """Karyon's speed, with its own choice, over the best peer's."""
        return (self.own or self.same).speed / self.peer.speed

    @property
    def held(self) -> bool:
        """Whether bar 4 is held here: faster, sooner, and with its own choice six times."""
        return (
            self.same.speed > self.peer.speed
            and self.same.delay < self.soonest.delay
            and self.ratio >= TIMES_THE_BEST_BAR
        )


def better(layouts: Sequence[Sequence[Window]]) -> Sequence[Window]:
    """Return the faster layout at the last concurrency that both were measured at."""
    shared = min(len(rows) for rows in layouts) - 1
    return max(layouts, key=lambda rows: rows[shared].speed)


def compare(windows: Sequence[Window]) -> list[Comparison]:
    """Compare at each concurrency that Karyon and a peer were measured at."""
    found = []
    for concurrency in sorted({row.concurrency for row in windows}):
        here = [row for row in windows if row.concurrency == concurrency and row.answers]
        peers = [row for row in here if row.server not in {CEILING, KARYON_ON_CPU, KARYON_AS_IT_IS}]
        same = [row for row in here if row.server == KARYON_ON_CPU]
        own = [row for row in here if row.server == KARYON_AS_IT_IS]
        if peers and same:
            found.append(
                Comparison(
                    concurrency,
                    _fastest(peers),
                    min(peers, key=lambda row: row.delay),
                    _fastest(same),
                    _fastest(own) if own else None,
                )
            )
    return found


def _fastest(rows: Sequence[Window]) -> Window:
    return max(rows, key=lambda row: row.speed)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Return one row for each concurrency, as Markdown."""
    header = ["connections", "best peer, of the bare loop", "Karyon, same provider"]
    header += [
        "lowest p99 of a peer, in runs of the loop",
        "Karyon",
        "own choice over the best peer",
    ]
    rows = []
    for one in comparisons:
        ratio = one.same.speed / one.peer.speed
        rows.append(
            [
                str(one.concurrency),
                f"{one.peer.speed:.2f} ({one.peer.server}, {one.peer.layout})",
                f"{one.same.speed:.2f} ({one.same.layout}): {ratio:.2f} of it",
                f"{one.soonest.delay:.1f} ({one.soonest.server}, {one.soonest.layout})",
                f"{one.same.delay:.1f}",
                f"{one.ratio:.2f}" if one.own else "the same provider and precision here",
            ]
        )
    return markdown_table(header, rows)


def table(windows: Sequence[Window], concurrencies: Sequence[int]) -> str:
    """Return requests/s (of the bare loop), p50 and p99 by concurrency, and memory, as Markdown.

    A row is a server in one layout; a dash is what was not measured. Memory is that of its last
    window, processor time that of the last one whose answers were all awaited.
    """
    header = ["server", "workers x threads"]
    header += [f"{c}: requests/s (of bare), p50, p99 ms" for c in concurrencies] + [
        "errors",
        "memory MB",
    ]
    header += ["processor ms an answer"]
    rows = []
    for name, layout in dict.fromkeys((row.server, row.layout) for row in windows):
        own = [row for row in windows if (row.server, row.layout) == (name, layout)]
        at = {row.concurrency: row for row in own}
        cells = [_cell(at[c]) if c in at else "-" for c in concurrencies]
        memory = own[-1].memory_mb
        errors = str(sum(row.errors for row in own))
        taken = [row.processor_ms for row in own if row.processor_ms is not None]
        figures = [memory, taken[-1] if taken else None]
        shown = ["-" if figure is None else f"{figure:.0f}" for figure in figures]
        rows.append([name, layout, *cells, errors, *shown])
    return markdown_table(header, rows)


def _cell(row: Window) -> str:
    times = (row.p50_ms, row.p99_ms)
    shown = ["-" if math.isnan(value) else f"{value:.0f}" for value in times]
    share = "" if row.bare_per_s is None else f" ({row.speed:.2f})"
    return ", ".join([f"{row.requests_per_s:.2f}{share}", *shown])


def answers_sentence(windows: Sequence[Window]) -> str:
    """Say of how many answers the figures are."""
    counts = [row.answers for row in windows if row.server != CEILING and row.answers]
    if not counts:
        return "No answers."
    few = " and a p99 of fewer than a hundred is the slowest of them" if min(counts) < 100 else ""
    return f"A cell is of {min(counts)} to {max(counts)} answers{few}."


def plot(windows: Sequence[Window], path: Path) -> None:
    """Draw speed and p99 against concurrency, each server in its better layout there."""
    import matplotlib as mpl  # noqa: PLC0415  slow to load, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the backend is chosen

    servers = [row for row in windows if row.server != CEILING and row.answers]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.axhline(1.0, color="0.4", linestyle="--", label=CEILING)
    for name in dict.fromkeys(row.server for row in servers):
        at = sorted({row.concurrency for row in servers if row.server == name})
        own = [
            _fastest([row for row in servers if (row.server, row.concurrency) == (name, c)])
            for c in at
        ]
        width = 2.5 if name.startswith("Karyon") else 1.2
        left.plot(at, [r.speed for r in own], marker="o", label=name, linewidth=width)
        right.plot(at, [r.delay for r in own], marker="o", label=name, linewidth=width)
    left.set(
        xlabel="connections", title="requests/s over the bare loop's of the minute", xscale="log"
    )
    right.set(
        xlabel="connections", title="p99, in runs of the bare loop", xscale="log", yscale="log"
    )
    ticks = sorted({row.concurrency for row in windows})
    for axes in (left, right):
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0.0)
    left.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
