"""From an answer of the service to what the viewer draws, the table shows and the histogram counts.

Plain values in and out; nothing here knows of Streamlit.
"""

import base64
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from service.ui.editing import Edits, drawn_points

Nucleus = dict[str, Any]
Answer = dict[str, Any]

COLOURS: Final = {
    "Yellow": "#ffe100",
    "Cyan": "#00e5ff",
    "Green": "#39ff14",
    "White": "#ffffff",
    "Black": "#000000",
}
"""Colours of outlines, by name; yellow and cyan stand out from haematoxylin and eosin best."""


NO_EDITS: Final = Edits()


@dataclass(frozen=True, slots=True)
class OutlineStyle:
    """How outlines look.

    Attributes:
        colour: As `#rrggbb`.
        thickness_px: Width of the line on the screen, whatever the zoom.
        opacity: Of the line, 0 to 1.
        fill: Opacity of the nucleus's inside, 0 to 1.
        map_opacity: Of the map over the image, 0 to 1.
    """

    colour: str = COLOURS["Yellow"]
    thickness_px: float = 2.0
    opacity: float = 1.0
    fill: float = 0.0
    map_opacity: float = 0.8


def viewer_data(
    answer: Answer,
    picture_url: str | None,
    style: OutlineStyle,
    *,
    selected: int | None = None,
    map_png: bytes | None = None,
    edits: Edits = NO_EDITS,
) -> dict[str, Any]:
    """Return what the viewer component draws.

    Args:
        answer: Answer of `POST /segment` with `include=nuclei`.
        picture_url: The image as a data URL, or None where it cannot be shown.
        style: Of the outlines.
        selected: Number of the nucleus to mark.
        map_png: The map that lies over the image.
        edits: What the reviewer changed.
    """
    encoded = None if map_png is None else base64.b64encode(map_png).decode("ascii")
    return {
        "name": answer["image"]["sha256"],
        "picture": picture_url,
        "map": None if encoded is None else f"data:image/png;base64,{encoded}",
        "width": answer["image"]["width"],
        "height": answer["image"]["height"],
        "nuclei": [[item["id"], points(item["contour_px"])] for item in answer["nuclei"] or ()],
        "deleted": sorted(edits.deleted),
        "drawn": [drawn_points(outline) for outline in edits.drawn],
        "style": asdict(style),
        "selected": selected,
        "description": (
            f"Image of {answer['image']['width']} by {answer['image']['height']} pixels with"
            f" {answer['count']} outlined nuclei"
        ),
    }


def points(contour: list[list[int]]) -> str:
    """Return a contour as SVG's `points`, through the middles of the border pixels."""
    return " ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in contour)


def labels_png(answer: Answer) -> bytes:
    """Return the numbered nuclei of an answer that was asked for them, as a PNG file."""
    return base64.b64decode(answer["mask"]["data"])


def nuclei_table(answer: Answer, *, first: int | None = None) -> dict[str, list[Any]]:
    """Return the columns of the table of nuclei, largest first.

    Areas are in square micrometres, or in pixels where the resolution is only assumed.

    Args:
        answer: With nuclei.
        first: Number of a nucleus that is to stand before all others.
    """
    key, unit = area_key(answer)
    nuclei = sorted(answer["nuclei"] or (), key=lambda item: (item["id"] != first, -item[key]))
    return {
        "Nucleus": [item["id"] for item in nuclei],
        f"Area ({unit})": [round(item[key], 1) for item in nuclei],
        "Mean probability": [round(item["mean_probability"], 3) for item in nuclei],
        "x (px)": [round(item["centroid_px"][0], 1) for item in nuclei],
        "y (px)": [round(item["centroid_px"][1], 1) for item in nuclei],
    }


def area_key(answer: Answer) -> tuple[str, str]:
    """Return the member of a nucleus that has its area, and the unit."""
    known = answer["image"]["mpp_source"] != "assumed_native"
    return ("area_um2", "µm²") if known else ("area_px", "px")


def area_histogram(answer: Answer, *, bins: int = 20) -> list[dict[str, float]]:
    """Return the histogram of the areas, in the unit of `area_key`.

    Args:
        answer: With nuclei.
        bins: Most bins.

    Returns:
        One row a bin, `from` inclusive, `to` exclusive, `nuclei` in it; bins are equally wide.
    """
    key, _ = area_key(answer)
    areas = [float(item[key]) for item in answer["nuclei"] or ()]
    if not areas:
        return []
    width = _round_up(max(areas) / bins)
    counts = [0] * (int(max(areas) // width) + 1)
    for area in areas:
        counts[int(area // width)] += 1
    return [
        {"from": round(place * width, 6), "to": round((place + 1) * width, 6), "nuclei": count}
        for place, count in enumerate(counts)
    ]


def _round_up(width: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten: edges that can be read."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= width * 0.999)
