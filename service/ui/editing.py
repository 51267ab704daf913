"""Nuclei that a reviewer deletes and draws: what the picture shows, and the labels that are filed.

Plain values in and out; nothing here knows of Streamlit.
"""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

Outline = tuple[tuple[float, float], ...]
"""Corners (x, y) in pixels of the image; pixel (0, 0) reaches from 0 to 1."""

GREATEST_CORNERS: Final = 4000
_GREATEST_LABEL: Final = 65_535


class EditError(ValueError):
    """A change that cannot be made; the message is for the reviewer."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What a reviewer changed in a result.

    Attributes:
        deleted: Numbers of the nuclei that are none.
        drawn: Outlines of the nuclei that were missed.
    """

    deleted: frozenset[int] = frozenset()
    drawn: tuple[Outline, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.deleted or self.drawn)

    def toggle(self, number: int) -> "Edits":
        """Delete a nucleus of the model's, or take it back where it is deleted."""
        return replace(self, deleted=self.deleted ^ {number})

    def erase(self, points: str) -> "Edits":
        """Drop what was drawn, named by its corners: a place in the list soon means another one.

        Args:
            points: As `drawn_points` returns. Where no such outline is, nothing changes.
        """
        kept = (outline for outline in self.drawn if drawn_points(outline) != points)
        return replace(self, drawn=tuple(kept))

    def draw(self, outline: Outline) -> "Edits":
        """Add a nucleus."""
        return replace(self, drawn=(*self.drawn, outline))


def drawn_points(outline: Outline) -> str:
    """Return an outline that somebody drew as SVG's `points`."""
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in outline)


def read_outline(corners: Iterable[Any], width_px: int, height_px: int) -> Outline:
    """Return what the browser sent as an outline within the image.

    Args:
        corners: Pairs (x, y).
        width_px: Width of the image.
        height_px: Height of the image.

    Raises:
        EditError: They enclose nothing.
    """
    outline = tuple(
        (min(max(float(x), 0.0), width_px - 0.01), min(max(float(y), 0.0), height_px - 0.01))
        for x, y in corners
    )
    if not 3 <= len(outline) <= GREATEST_CORNERS:
        raise EditError(f"An outline has 3 to {GREATEST_CORNERS:,} corners; draw it again.")
    return outline


def edited_labels(labels_png: bytes, edits: Edits) -> tuple[bytes, int]:
    """Return the labels with the changes made, and how many nuclei they show.

    A drawn nucleus gets the pixels that no other one has: a pixel belongs to one nucleus.

    Args:
        labels_png: The result's `mask=labels`: 16-bit PNG, 0 background.
        edits: The changes.

    Raises:
        EditError: A drawn nucleus has no pixel of its own, or there are too many.
    """
    with Image.open(io.BytesIO(labels_png)) as opened:
        labels = np.array(opened).astype(np.int32)
    labels[np.isin(labels, list(edits.deleted))] = 0
    for outline in edits.drawn:
        number = int(labels.max()) + 1
        if number > _GREATEST_LABEL:
            raise EditError(f"No more than {_GREATEST_LABEL:,} nuclei can be numbered.")
        left, top, inside = _fill(outline)
        part = labels[top : top + inside.shape[0], left : left + inside.shape[1]]
        free = inside & (part == 0)
        if not free.any():
            raise EditError("The outline lies wholly within other nuclei; delete those first.")
        part[free] = number
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue(), len(np.unique(labels[labels > 0]))


def _fill(outline: Outline) -> tuple[int, int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the left and top of an outline's box, and which pixels of the box lie in it."""
    corners = [(math.floor(x), math.floor(y)) for x, y in outline]
    left, top = (min(corner[axis] for corner in corners) for axis in (0, 1))
    right, bottom = (max(corner[axis] for corner in corners) for axis in (0, 1))
    canvas = Image.new("L", (right - left + 1, bottom - top + 1))
    shifted = [(x - left, y - top) for x, y in corners]
    ImageDraw.Draw(canvas).polygon(shifted, fill=1, outline=1)
    return left, top, np.asarray(canvas) > 0
