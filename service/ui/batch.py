"""Many images at once, and the ZIP of what came of them; knows of no Streamlit."""

import base64
import csv
import io
import json
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Batch:
    """Images on their way through the service, one after the other, and what came of them so far.

    They wait in the service's class `batch`, behind whoever looks at a single image.

    Attributes:
        client: The service.
        waiting: The images that are still to be segmented, the next one first.
        parameters: Query parameters, `model` among them.
        identity: Form fields of the case.
        made_of: What it was begun with, to tell whether that has changed since.
        items: What came of the images so far.
        left_out: How many images were left when it was stopped.
        archive: The ZIP of it all, once it is made.
    """

    client: KaryonClient
    waiting: list[Picture]
    parameters: Parameters
    identity: dict[str, str]
    made_of: object
    items: list[BatchItem] = field(default_factory=list)
    left_out: int = 0
    archive: bytes = b""
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def segment_next(self) -> None:
        """Segment one image and keep what came of it; one that fails does not stop the rest.

        Streamlit begins the next run of the script before it has ended the last one: a second
        thread waits here for the image that the first one sent, and sends it no second time.
        """
        with self._one_at_a_time:
            if not self.waiting:
                return
            asked = {**self.parameters, "priority": "batch"}
            item = _segment_one(self.client, self.waiting[0], asked, self.identity)
            self.items.append(item)
            del self.waiting[0]

    def stop(self) -> None:
        """Leave the images that still wait as they are, once the one that is sent is back."""
        with self._one_at_a_time:
            self.left_out += len(self.waiting)
            self.waiting.clear()


def _segment_one(
    client: KaryonClient, picture: Picture, parameters: Parameters, identity: dict[str, str]
) -> BatchItem:
    # One request for figures and outlines: each is a record, and may go to the laboratory system.
    asked = {**parameters, "include": "nuclei,mask", "mask": "overlay"}
    try:
        content = client.segment(picture.content, picture.name, asked, identity)
    except ServiceError as error:
        return BatchItem(picture.name, error=f"{error} {error.remedy}".strip())
    answer = json.loads(content)
    return BatchItem(picture.name, answer, content, base64.b64decode(answer["mask"]["data"]))


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
