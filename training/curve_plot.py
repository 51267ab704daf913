"""Curves as SVG that stands in a page: no script, no picture file, sharp at every size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 470
HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 28, 34

COLOURS: Final = ("#0b6e4f", "#c8553d", "#3a5ba0", "#b7791f", "#7b3f98", "#4a5568")
"""One for each run of a comparison, in turn."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line.

    Attributes:
        name: for the legend; an empty name is not listed.
        points: (x, y), at least one; points that are not finite are left out.
        colour: of SVG.
        dashed: whether the line is dashed.
        mark: x of a point that gets a dot, or None.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    mark: float | None = None


def plot(title: str, curves: Sequence[Curve], x_label: str = "epoch") -> str:
    """Draw curves over common axes.

    ```
       title
     1 ┤      ·········  legend below, in HTML
       ┤  ····
     0 ┼──────────────── x_label
    ```

    Args:
        title: above the plot.
        curves: at least one.
        x_label: below the axis.

    Returns:
        An `<svg>` element.
    """
    finite = [
        [(x, y) for x, y in curve.points if math.isfinite(x) and math.isfinite(y)]
        for curve in curves
    ]
    xs = [x for points in finite for x, _ in points] or [0.0]
    ys = [y for points in finite for _, y in points] or [0.0]
    x_ticks = [tick for tick in ticks(min(xs), max(xs), 8) if tick == int(tick)]
    y_ticks = ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (right - _LEFT),
            down - (y - y_low) / (y_high - y_low) * (down - _TOP),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
        (
            f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        ),
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        )
    for curve, points in zip(curves, finite, strict=True):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        stroke = f'stroke="{curve.colour}" stroke-width="2"{dash}'
        parts.append(f'<polyline points="{line}" fill="none" {stroke}/>')
        # A line of one point would not show.
        dots = points if len(points) == 1 else [p for p in points if p[0] == curve.mark]
        for point in dots:
            x, y = place(*point)
            tip = f"{curve.name}: {point[1]:.4g} at {point[0]:g}".removeprefix(": ")
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{curve.colour}">'
                f"<title>{escape(tip)}</title></circle>"
            )
    return "".join([*parts, "</svg>"])


def legend(curves: Sequence[Curve]) -> str:
    """Name the curves, as a line of HTML."""
    entries = []
    for curve in curves:
        if curve.name:
            style = "dashed" if curve.dashed else "solid"
            entries.append(
                f'<span><i style="border-top:3px {style} {curve.colour}"></i>'
                f"{escape(curve.name)}</span>"
            )
    return f'<p class="legend">{"".join(entries)}</p>'


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: least value.
        high: greatest value.
        most: how many at the most, about.

    Returns:
        At least two, in order, in steps of 1, 2 or 5 times a power of ten.
    """
    span = high - low or max(abs(high), 1.0) / 10
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, max(last, first + 1) + 1)]
