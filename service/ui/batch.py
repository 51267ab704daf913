"""Many images at once, and the ZIP of what came of them; knows of no Streamlit."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from service.ui.client import KaryonClient, Parameters, ServiceError
from service.ui.pictures import Picture

COLUMNS: Final = (
    "file",
    "count",
    "count_lower",
    "count_upper",
    "density_per_mm2",
    "review_recommended",
    "id",
    "error",
)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What came of one image.

    Attributes:
        name: File name.
        answer: The service's answer, None where it refused.
        content: The same as it came.
        overlay: The image with outlines, PNG.
        error: Why there is no answer; empty where there is one.
    """

    name: str
    answer: dict[str, Any] | None = None
    content: bytes = b""
    overlay: bytes = b""
    error: str = ""

    def row(self) -> dict[str, Any]:
        """Return the row of the summary, by `COLUMNS`."""
        if self.answer is None:
            return {**dict.fromkeys(COLUMNS), "file": self.name, "error": self.error}
        interval = self.answer["count_interval"] or {}
        return {
            "file": self.name,
            "count": self.answer["count"],
            "count_lower": interval.get("lower"),
            "count_upper": interval.get("upper"),
            "density_per_mm2": self.answer["density_per_mm2"],
            "review_recommended": self.answer["quality"]["review_recommended"],
            "id": self.answer["id"],
            "error": None,
        }


def segment_all(
    client: KaryonClient,
    pictures: Sequence[Picture],
    parameters: Parameters,
    identity: dict[str, str],
    on_done: Callable[[int, BatchItem], None],
) -> list[BatchItem]:
    """Segment one image after the other; one that fails does not stop the rest.

    They wait in the service's class `batch`, behind whoever looks at a single image.

    Args:
        client: The service.
        pictures: The images.
        parameters: Query parameters, `model` among them.
        identity: Form fields of the case.
        on_done: Told how many are done, and the last of them.
    """
    items = []
    for number, picture in enumerate(pictures, start=1):
        items.append(_segment_one(client, picture, {**parameters, "priority": "batch"}, identity))
        on_done(number, items[-1])
    return items


def _segment_one(
    client: KaryonClient, picture: Picture, parameters: Parameters, identity: dict[str, str]
) -> BatchItem:
    try:
        asked = {**parameters, "include": "nuclei"}
        content = client.segment(picture.content, picture.name, asked, identity)
        drawn = {**parameters, "format": "png", "mask": "overlay"}
        overlay = client.segment(picture.content, picture.name, drawn, identity)
    except ServiceError as error:
        return BatchItem(picture.name, error=f"{error} {error.remedy}".strip())
    return BatchItem(picture.name, json.loads(content), content, overlay)


def to_zip(items: Sequence[BatchItem]) -> bytes:
    """Return a ZIP with `summary.csv`, and a JSON and a picture with outlines of each image.

    Files of the same name get a number; names are reduced to their last part.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("summary.csv", summary_csv(items))
        for number, item in enumerate(items, start=1):
            if item.answer is not None:
                stem = f"{number:03d}_{PurePath(item.name).stem}"
                archive.writestr(f"{stem}.json", item.content)
                archive.writestr(f"{stem}.overlay.png", item.overlay)
    return buffer.getvalue()


def summary_csv(items: Sequence[BatchItem]) -> str:
    """Return one row an image, with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for item in items:
        row = item.row()
        # A spreadsheet would run a file name that begins like a formula.
        if item.name.startswith(("=", "+", "-", "@")):
            row["file"] = f"'{item.name}"
        writer.writerow(row)
    return text.getvalue()
