"""Two fields of the validation data with annotation and prediction beside them."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from export.errors import ExportRefusedError
from export.records import ModelRecord
from export.report import PREDICTED_COLOUR, TRUTH_COLOUR, panel
from service.inference.session import ModelSession
from service.outputs.overlay import draw_overlay
from service.segmenter import Segmenter
from training.datasets import read_dataset

_QUALITIES: Final = (85, 75, 65, 50)
_MOST_BYTES: Final = 150_000


def write_fields(record: ModelRecord, data: Path, out: Path) -> dict[str, str]:
    """Draw the validation images with the fewest and with the most annotated nuclei.

    Args:
        record: The model.
        data: Folder of the data set that the model was validated on.
        out: Folder to write `sparse.jpg` and `dense.jpg` into.

    Returns:
        File name to caption.

    Raises:
        ExportRefusedError: The data set lacks these images.
        training.datasets.DatasetError: The folder is not usable.
    """
    counts = {
        image["stem"]: image["truth_count"]
        for image in record.validation["images"]
        if image["truth_count"] > 0
    }
    samples = {sample.stem: sample for sample in read_dataset(data)}
    if not counts or not counts.keys() <= samples.keys():
        raise ExportRefusedError(f"{data} lacks images that {record.title} was validated on")
    segmenter = Segmenter(ModelSession.load(record.path, provider="cpu"))
    captions = {}
    for name, stem in (
        ("sparse.jpg", min(counts, key=lambda stem: (counts[stem], stem))),
        ("dense.jpg", max(counts, key=lambda stem: (counts[stem], stem))),
    ):
        pixels, truth = samples[stem].read()
        found = segmenter.segment(pixels)
        panels = [
            panel(pixels, stem),
            panel(
                draw_overlay(pixels, truth, colour=TRUTH_COLOUR), f"annotated: {counts[stem]:.0f}"
            ),
            panel(
                draw_overlay(pixels, found.labels, colour=PREDICTED_COLOUR),
                f"found: {found.count}",
            ),
        ]
        _write(np.hstack(panels), out / name)
        captions[name] = f"{stem}: {counts[stem]:.0f} annotated, {found.count} found"
    return captions


def _write(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a JPEG, as well as the size allows."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    for quality in _QUALITIES:
        encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(encoded) <= _MOST_BYTES:
            break
    path.write_bytes(encoded.tobytes())
