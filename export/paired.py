"""Two model files on the same images: which one counts better, and is that more than luck?

Both files see every image, so what varies is the difference on each image, not the images
themselves: units are drawn once and both files are judged on the same draw (paired bootstrap;
Efron and Tibshirani, 1993, chapter 8).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from export.bootstrap import draw_units, image_sums, interval, pooled_figures, ratio
from export.evaluate import Evaluation, ImageResult

LEAST_UNITS: Final = 6
"""Fewer than this show nothing: five of five are better by luck one time in thirty-two."""

_TITLES: Final = {
    "dice": "Dice",
    "aji": "AJI",
    "pq": "PQ",
    "f1_at_0.5": "F1@0.5",
    "count_bias_size": "|count bias|",
    "count_mape": "count MAPE",
}
_PERCENT: Final = frozenset({"count_mape", "count_bias_size"})

Verdict = Literal["better", "no difference shown", "worse"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both files.

    Attributes:
        old: Of the file in use; `count_bias_size` is without its sign.
        new: Of the file that may replace it.
        interval: Ends of the 95 % interval of new - old; None where nothing could be drawn.
    """

    old: float
    new: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Paired:
    """The comparison.

    Attributes:
        images: How many images both were judged on.
        resampled: What was drawn; None for a single image.
        units: How many of them there are.
        differences: By name of the figure.
        verdict: For counting.
        reason: Why, in a sentence.
    """

    images: int
    resampled: Literal["groups", "images"] | None
    units: int
    differences: dict[str, Difference]
    verdict: Verdict
    reason: str

    def document(self) -> dict[str, Any]:
        """As it stands in `comparison.json`."""
        return asdict(self)


def compare(old: Evaluation, new: Evaluation) -> Paired:
    """Compare two evaluations of the same images.

    Args:
        old: Of the file in use.
        new: Of the file that may replace it.

    Raises:
        ValueError: They are of different images, or nothing is annotated.
    """
    if [image.stem for image in old.images] != [image.stem for image in new.images]:
        raise ValueError("the two files were measured on different images")
    sums = [_sums(evaluation.images) for evaluation in (old, new)]
    if not sums[0][:, -1].any():
        raise ValueError("no image has an annotated nucleus, so there is no count to compare")
    groups = [image.group for image in old.images]
    width = sums[0].shape[1]
    draw = draw_units(groups, np.hstack(sums), least_groups=LEAST_UNITS)
    values = [_figures(part.sum(axis=0, keepdims=True)) for part in sums]
    drawn = None
    if draw is not None:
        drawn = [
            _figures(part) for part in (draw.replicates[:, :width], draw.replicates[:, width:])
        ]
    differences = {
        name: Difference(
            old=float(values[0][name][0]),
            new=float(values[1][name][0]),
            interval=None if drawn is None else interval(drawn[1][name] - drawn[0][name]),
        )
        for name in _TITLES
    }
    units = 1 if draw is None else draw.units
    verdict, reason = judge(differences, units)
    return Paired(
        images=len(groups),
        resampled=None if draw is None else draw.resampled,
        units=units,
        differences=differences,
        verdict=verdict,
        reason=reason,
    )


def _sums(images: Sequence[ImageResult]) -> NDArray[np.float64]:
    """`image_sums`, then the relative error of the count, and whether there is one."""
    sums = image_sums([image.pixels for image in images], [image.instances for image in images])
    truth = np.array([image.instances.truth_count for image in images], np.float64)
    found = np.array([image.instances.predicted_count for image in images], np.float64)
    error = ratio(np.abs(found - truth), truth, empty=0.0)
    return np.column_stack([sums, error, truth > 0])


def _figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    figures = pooled_figures(sums[:, :-2])
    figures["count_bias_size"] = np.abs(figures.pop("count_bias"))
    figures["count_mape"] = ratio(sums[:, -2], sums[:, -1], empty=np.nan)
    return figures


def judge(differences: dict[str, Difference], units: int) -> tuple[Verdict, str]:
    """The error of the count of an image decides; detection must not have become worse."""
    mape, f1 = differences["count_mape"], differences["f1_at_0.5"]
    change = f"the mean error of an image's count goes from {mape.old:.1%} to {mape.new:.1%}"
    if units < LEAST_UNITS or mape.interval is None:
        return (
            "no difference shown",
            (
                f"{change}, but {units} images are too few to tell it from luck; judge on "
                f"{LEAST_UNITS} or more"
            ),
        )
    low, high = (100 * end for end in mape.interval)
    told = f"{change}, by {low:+.1f} to {high:+.1f} points (95 %)"
    if low > 0:
        return "worse", told
    if high >= 0:
        return "no difference shown", f"{told}, which holds 0"
    if f1.interval is not None and f1.interval[1] < 0:
        return (
            "no difference shown",
            (
                f"{told}, but nuclei are found less well (F1@0.5 {f1.old:.3f} to {f1.new:.3f}): "
                "its errors cancel each other"
            ),
        )
    return "better", told


def print_paired(paired: Paired, old: str, new: str, console: Console) -> None:
    """Print the table and the verdict.

    Args:
        paired: The comparison.
        old: What the file in use is called.
        new: What the other one is called.
        console: Where to.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for heading in (f"old: {old}", f"new: {new}", "difference", "95 % from", "95 % to"):
        table.add_column(heading, justify="right")
    for name, title in _TITLES.items():
        difference = paired.differences[name]
        ends = difference.interval
        table.add_row(
            title,
            _number(name, difference.old),
            _number(name, difference.new),
            _number(name, difference.new - difference.old, "+"),
            *(("-", "-") if ends is None else (_number(name, end, "+") for end in ends)),
            style="bold" if name == "count_mape" else None,
        )
    console.print(table)
    drawn = {"groups": "patients", "images": "images"}.get(paired.resampled or "", "")
    if drawn:
        console.print(
            f"the same {paired.images} images for both; intervals by drawing {paired.units} "
            f"{drawn}" + (", so they say nothing of how patients differ" * (drawn == "images")),
            highlight=False,
        )
    colour = {"better": "green", "worse": "red"}.get(paired.verdict, "yellow")
    console.print(
        f"[bold {colour}]{paired.verdict}[/] for counting: {paired.reason}",
        highlight=False,
        soft_wrap=True,
    )


def _number(name: str, value: float, sign: str = "") -> str:
    if name not in _PERCENT:
        return f"{value:{sign}.3f}"
    # A difference of percentages is no percentage.
    return f"{value * 100:+.1f} points" if sign else f"{value:.1%}"
