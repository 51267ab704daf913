from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from training.datasets import DEFAULT_GROUP_PATTERN, read_dataset
from training.preview import Preview, check_data, image_doubts, print_preview


def printed(preview: Preview) -> str:
    console = Console(record=True, width=100)
    print_preview(preview, console)
    return " ".join(console.export_text().split())


def test_patients_images_and_nuclei_are_counted(disc_folder: Path) -> None:
    preview = check_data(disc_folder, DEFAULT_GROUP_PATTERN)
    assert preview.kind == "instances"
    assert {group: len(images) for group, images in preview.groups.items()} == {
        "p00": 2,
        "p01": 2,
        "p02": 2,
    }
    assert [image.nuclei for image in preview.images] == [8] * 6
    assert preview.faults == preview.doubts == ()
    assert not any(image.doubts for image in preview.images)
    assert "together 6 48 197" in printed(preview)


def test_an_annotation_of_another_image_is_noticed_on_real_tiles(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32], test_data: Path
) -> None:
    (other,) = (sample for sample in read_dataset(test_data) if sample.stem == "tnbc_p07_1")
    other_pixels, other_labels = other.read()
    for pixels, labels in ((he_pixels, he_labels), (other_pixels, other_labels)):
        assert image_doubts(pixels, labels) == []
        assert "not on dark nuclei" in image_doubts(pixels, np.fliplr(labels))[0]
    for pixels, labels in ((he_pixels, other_labels), (other_pixels, he_labels)):
        assert "annotation of another image" in image_doubts(pixels, labels)[0]


def test_what_else_is_doubtful_is_said(he_pixels: NDArray[np.uint8]) -> None:
    nothing = np.zeros(he_pixels.shape[:2], np.int32)
    assert image_doubts(he_pixels, nothing) == ["no nucleus is annotated"]
    inverted = np.ones(he_pixels.shape[:2], np.int32)
    inverted[100:150, 100:150] = 0
    assert "are black and white exchanged?" in image_doubts(he_pixels, inverted)[0]
    reused = nothing.copy()
    for k in range(6):
        reused[50 * k : 50 * k + 20, 10:30] = 1 + k % 2
    assert any("numbers are used for several" in doubt for doubt in image_doubts(he_pixels, reused))


def test_the_sheet_shows_outlines_and_frames_what_is_doubtful(
    disc_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        for path in (disc_folder / folder).iterdir():
            (root / folder / path.name).write_bytes(path.read_bytes())
    labels = cv2.imread(str(root / "labels" / "p01_0.png"), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    cv2.imwrite(str(root / "labels" / "p01_0.png"), np.roll(labels, 24, axis=0))
    cv2.imwrite(str(root / "labels" / "p02_1.png"), labels[:50])
    preview = check_data(root, DEFAULT_GROUP_PATTERN)
    doubtful = [image.stem for image in preview.images if image.doubts]
    assert doubtful == ["p01_0"]
    (fault,) = preview.faults
    assert "p02_1: image is 96x96 px but its annotation p02_1.png is 96x50" in fault
    text = printed(preview)
    assert "fault p02_1" in text
    assert "look at p01_0: the outlines are not on dark nuclei" in text
    preview.write_sheet(tmp_path / "out" / "sheet.png")
    written = cv2.imread(str(tmp_path / "out" / "sheet.png"))
    assert written is not None
    sheet = written[..., ::-1]
    # Five readable images in one row; the doubtful one is first, in a red frame.
    assert sheet.shape == (336, 5 * 312, 3)
    red = np.nonzero((sheet == (220, 0, 0)).all(axis=2))
    green = np.nonzero((sheet == (0, 200, 70)).all(axis=2))
    assert 0 < red[1].max() < 312
    assert len(green[0]) > 5 * 8 * 30
    assert green[1].max() > 4 * 312


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(p)", "all images belong to one patient (p)"), ("(.*)", "every image is a patient of its")],
)
def test_a_pattern_that_groups_wrongly_is_doubted(
    disc_folder: Path, pattern: str, words: str
) -> None:
    assert words in " ".join(check_data(disc_folder, pattern).doubts)


def test_masks_and_an_odd_scale_are_doubted(disc_folder: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for path in (disc_folder / "images").iterdir():
        size = (32, 32)
        image = cv2.imread(str(path))
        labels = cv2.imread(str(disc_folder / "labels" / path.name), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert labels is not None
        cv2.imwrite(str(tmp_path / "images" / path.name), cv2.resize(image, size))
        mask = cv2.resize(np.where(labels > 0, 255, 0).astype(np.uint8), size)
        cv2.imwrite(str(tmp_path / "masks" / path.name), np.where(mask > 127, 255, 0))
    doubts = " ".join(check_data(tmp_path, DEFAULT_GROUP_PATTERN).doubts)
    assert "touching nuclei count as one" in doubts
    assert "about 330 px are usual at 0.25 um/px" in doubts
