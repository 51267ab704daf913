"""Make docs/images/overview.jpg: a committed tile, what the service finds in it, and the truth.

python -m benchmarks.readme_picture
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.images.decode import ImageLimits, decode_image
from service.inference.repository import ModelRepository, embedded_models_dir
from service.outputs.overlay import draw_overlay
from service.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
STEM = "tnbc_p07_1"
MARGIN_PX = 8
CAPTION_PX = 34


def caption(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Put a line of text above a picture."""
    head = np.full((CAPTION_PX, picture.shape[1], 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(head, text, (4, 23), font, 0.6, (60, 60, 60), 1, cv2.LINE_AA)
    return np.vstack([head, picture])


def main() -> None:
    """Segment the tile with the embedded model and write the picture."""
    repository = ModelRepository.open(
        embedded_models_dir(), default=None, provider="cpu", threads=0
    )
    data = (ROOT / "tests" / "data" / "images" / f"{STEM}.png").read_bytes()
    image = decode_image(data, ImageLimits())
    found = Segmenter(repository.get()).segment(image.pixels, 0.25)
    truth = cv2.imread(str(ROOT / "tests" / "data" / "labels" / f"{STEM}.png"), -1)
    assert truth is not None  # noqa: S101  committed beside the tile
    truth_labels = truth.astype(np.int32)
    panels = [
        caption(image.pixels, "H&E, breast, 128 um wide"),
        caption(draw_overlay(image.pixels, found.labels), f"Karyon: {found.count} nuclei"),
        caption(
            draw_overlay(image.pixels, truth_labels),
            f"annotated by hand: {truth_labels.max()} nuclei",
        ),
    ]
    gap = np.full((panels[0].shape[0], MARGIN_PX, 3), 255, np.uint8)
    row = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
    path = ROOT / "docs" / "images" / "overview.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), row[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"{path.relative_to(ROOT)}: {found.count} found, {truth_labels.max()} annotated")


if __name__ == "__main__":
    main()
