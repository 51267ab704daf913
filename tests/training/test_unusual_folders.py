"""What may look like a mistake in somebody's folder and simply works."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.datasets import read_dataset
from training.targets import make_targets


@pytest.fixture
def folder(tmp_path: Path, disc_folder: Path) -> Path:
    """A data set that works, to be changed."""
    return Path(shutil.copytree(disc_folder, tmp_path / "mine"))


def test_label_numbers_need_no_order_and_no_sequence(folder: Path) -> None:
    (sample, *_) = read_dataset(folder)
    before = make_targets(sample.read()[1], 2)
    labels = cv2.imread(str(sample.label_path), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    # Backwards and with gaps, as annotation tools number after nuclei were deleted.
    numbers = np.array([0, *(60_000 - 977 * k for k in range(1, labels.max() + 1))], np.uint16)
    cv2.imwrite(str(sample.label_path), numbers[labels])
    assert sample.read()[1].max() > 50_000
    np.testing.assert_array_equal(make_targets(sample.read()[1], 2), before)


@pytest.mark.parametrize("kind", ["masks of 0 and 1", "masks of 0 and 255", "RGBA images"])
def test_what_looks_like_a_mistake_simply_works(kind: str, folder: Path) -> None:
    before = [sample.read() for sample in read_dataset(folder)]
    if kind == "RGBA images":
        for path in (folder / "images").iterdir():
            image = cv2.imread(str(path))
            assert image is not None
            cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
    else:
        (folder / "labels").rename(folder / "masks")
        for path in (folder / "masks").iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert labels is not None
            high = 1 if kind.endswith(" 1") else 255
            cv2.imwrite(str(path), ((labels > 0) * high).astype(np.uint8))
    after = [sample.read() for sample in read_dataset(folder)]
    for (pixels, labels), (pixels_again, labels_again) in zip(before, after, strict=True):
        np.testing.assert_array_equal(pixels, pixels_again)
        np.testing.assert_array_equal(labels > 0, labels_again > 0)
        assert labels.max() == labels_again.max()
