"""Makes the images of the load test from those of the tests: `python tests/load/make_images.py`.

They are committed, because Locust's own container has no OpenCV to make them with.
"""

from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent / "images"
SOURCES = Path(__file__).resolve().parents[1] / "data" / "images"
TILE_QUALITY = 90
FIELD_QUALITY = 80
FIELD_PX = 2000


def main() -> None:
    """Write each 512x512 tile as JPEG, and a field of 2000x2000 of their mirror images."""
    FOLDER.mkdir(exist_ok=True)
    tiles = []
    for source in sorted(SOURCES.glob("tnbc_*.png")):
        pixels = cv2.imread(str(source), cv2.IMREAD_COLOR)
        if pixels is None:
            raise FileNotFoundError(source)
        tiles.append(pixels)
        path = FOLDER / f"{source.stem}.jpg"
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, TILE_QUALITY])
    # Mirrored at each seam, so that nuclei on a seam are whole.
    rows = [
        np.hstack([_mirrored(tiles[(row + column) // 2 % 2], row, column) for column in range(4)])
        for row in range(4)
    ]
    field = np.vstack(rows)[:FIELD_PX, :FIELD_PX]
    path = FOLDER / f"field_{FIELD_PX}.jpg"
    cv2.imwrite(str(path), field, [cv2.IMWRITE_JPEG_QUALITY, FIELD_QUALITY])


def _mirrored(tile: np.ndarray, row: int, column: int) -> np.ndarray:
    return tile[:: -1 if row % 2 else 1, :: -1 if column % 2 else 1]


if __name__ == "__main__":
    main()
