"""Show an evaluation to people: a picture of predictions beside truth, and a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from export.bootstrap import Bootstrap
from export.evaluate import Evaluation, figures
from service.outputs.overlay import draw_overlay
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter
from training.datasets import Sample

TRUTH_COLOUR: Final = (0, 200, 0)
PREDICTED_COLOUR: Final = (255, 210, 0)
PICTURE_ROWS: Final = 4
PANEL_PX: Final = 384
"""Longest side of one panel of the picture, in pixels."""

TABLE_ROWS: Final = 40
"""More images than this are tabled by group."""


def write_picture(
    evaluation: Evaluation,
    segmenter: Segmenter,
    samples: Sequence[Sample],
    path: Path,
    *,
    options: SegmentOptions | None = None,
) -> None:
    """Draw the image, the annotation and the prediction beside each other.

    The rows run from the image of the least Dice to that of the greatest, in even steps, so that
    the picture is no selection of the good ones.

    ```
    ┌───────┬────────────┬─────────────┐
    │ image │ annotation │ prediction  │  worst
    ├───────┼────────────┼─────────────┤   ...
    │ image │ annotation │ prediction  │  best
    └───────┴────────────┴─────────────┘
    ```

    Args:
        evaluation: Of these samples, in this order.
        segmenter: What made it.
        samples: The samples.
        path: `.png` or `.jpg` to write.
        options: As given to `evaluate`.
    """
    order = sorted(range(len(samples)), key=lambda i: evaluation.images[i].pixels.dice)
    steps = np.linspace(0, len(order) - 1, min(PICTURE_ROWS, len(order)))
    rows = []
    for index in dict.fromkeys(order[round(step)] for step in steps):
        result = evaluation.images[index]
        pixels, truth = samples[index].read()
        labels = segmenter.segment(pixels, options=options or SegmentOptions()).labels
        panels = [
            panel(pixels, result.stem),
            panel(
                draw_overlay(pixels, truth, colour=TRUTH_COLOUR),
                f"annotated: {result.instances.truth_count}",
            ),
            panel(
                draw_overlay(pixels, labels, colour=PREDICTED_COLOUR),
                f"predicted: {result.instances.predicted_count}, Dice {result.pixels.dice:.3f}",
            ),
        ]
        rows.append(np.hstack(panels))
    width_px = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(
            row, 0, 0, 0, width_px - row.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for row in rows
    ]
    picture = np.ascontiguousarray(np.vstack(padded)[..., ::-1])
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), picture, quality):
        raise OSError(f"cannot write {path}")


def panel(pixels: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """One picture, at most `PANEL_PX` long, with a line of text above it and a white rim."""
    scale = min(1.0, PANEL_PX / max(pixels.shape[:2]))
    if scale < 1.0:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    framed = cv2.copyMakeBorder(pixels, 26, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(
        framed, caption, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA
    )
    return framed.astype(np.uint8)


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print the figures of each image (of each group, where there are many) and of all together."""
    per_image = len(evaluation.images) <= TABLE_ROWS
    title = f"{evaluation.model['name']} {evaluation.model['version']} on {evaluation.dataset}"
    table = Table(
        box=SIMPLE_HEAD, title=f"{title}, {evaluation.split}", caption=_caption(evaluation)
    )
    table.add_column("image" if per_image else "group", no_wrap=True)
    for heading in ("Dice", "AJI", "PQ", "F1@0.5", "nuclei", "found", "bias"):
        table.add_column(heading, justify="right")
    if per_image:
        for image in evaluation.images:
            table.add_row(image.stem, *_cells(figures([image])))
    else:
        for group, values in evaluation.by_group().items():
            table.add_row(group, *_cells(values))
    groups = evaluation.by_group()
    if per_image and 1 < len(groups) < len(evaluation.images):
        table.add_section()
        for group, values in groups.items():
            table.add_row(group, *_cells(values))
    table.add_section()
    table.add_row("pooled", *_cells(evaluation.pooled), style="bold")
    drawn = evaluation.bootstrap()
    if drawn is not None:
        table.add_row("95 % from", *_end_cells(drawn, 0))
        table.add_row("95 % to", *_end_cells(drawn, 1))
    console.print(table)


def _cells(values: dict[str, float]) -> list[str]:
    ratios = [f"{values[name]:.3f}" for name in ("dice", "aji", "pq", "f1_at_0.5")]
    bias = f"{values['count_bias']:+.1%}" if "count_bias" in values else "-"
    return [*ratios, f"{values['truth_count']:.0f}", f"{values['predicted_count']:.0f}", bias]


def _end_cells(drawn: Bootstrap, end: Literal[0, 1]) -> list[str]:
    ratios = [f"{drawn.intervals[name][end]:.3f}" for name in ("dice", "aji", "pq", "f1_at_0.5")]
    bias = drawn.intervals.get("count_bias")
    return [*ratios, "", "", "-" if bias is None else f"{bias[end]:+.1%}"]


def _caption(evaluation: Evaluation) -> str:
    values = evaluation.pooled
    parts = [f"{len(evaluation.images)} images", evaluation.model["provider"]]
    if "count_mape" in values:
        parts.append(f"count MAPE {values['count_mape']:.1%}")
    if "count_r2" in values:
        parts.append(f"R2 {values['count_r2']:.3f}")
    if "count_difference_lower" in values:
        parts.append(
            f"limits of agreement {values['count_difference_lower']:+.1f} "
            f"to {values['count_difference_upper']:+.1f} nuclei"
        )
    if "auc" in values:
        parts.append(f"AUC {values['auc']:.3f}, AP {values['average_precision']:.3f}")
    parts.append(f"ECE {values['ece']:.3f}")
    if "merged_nucleus_risk" in values:
        parts.append(f"components alone would lose {values['merged_nucleus_risk']:.1%} of them")
    drawn = evaluation.bootstrap()
    if drawn is not None:
        parts.append(f"95 % intervals by drawing {drawn.units} {drawn.resampled}")
    return ", ".join(parts)
