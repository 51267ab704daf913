"""Cut the annotated test images of this repository into forty tiles, laid out for training.

    python -m examples.forty_tiles mydata

`mydata/images` and `mydata/labels` then hold forty pairs of 128x128 pixels from four patients:
enough to rehearse a training, too little for a good model. tests/data/README.md says whose images
they are.
"""

import argparse
from pathlib import Path

import cv2

TEST_DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SIDE_PX = 128
PATIENTS = {"tnbc_p07_1": "p07", "tnbc_p08_2": "p08", "nucls_test_1": "n01", "nucls_test_2": "n02"}


def cut(name: str, patient: str, folder: Path) -> int:
    """Write the tiles of one image and of its labels; return how many there are."""
    number = 0
    for kind in ("images", "labels"):
        number = 0
        pixels = cv2.imread(str(TEST_DATA / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise SystemExit(f"{TEST_DATA / kind / name}.png cannot be read")
        for top in range(0, pixels.shape[0], SIDE_PX):
            for left in range(0, pixels.shape[1], SIDE_PX):
                number += 1
                tile = pixels[top : top + SIDE_PX, left : left + SIDE_PX]
                cv2.imwrite(str(folder / kind / f"{patient}_{number}.png"), tile)
    return number


def main() -> None:
    """Read the command line and cut."""
    parser = argparse.ArgumentParser(description="Cut forty annotated tiles for a rehearsal.")
    parser.add_argument("folder", type=Path, help="where images/ and labels/ are written")
    folder: Path = parser.parse_args().folder
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    tiles = sum(cut(name, patient, folder) for name, patient in PATIENTS.items())
    print(f"{folder}: {tiles} tiles of {len(PATIENTS)} patients")


if __name__ == "__main__":
    main()
