from pathlib import Path

import cv2
import numpy as np
import pytest

from training.config import DataSource, TrainingConfig
from training.datasets import (
    DEFAULT_GROUP_PATTERN,
    DatasetError,
    dataset_digest,
    read_dataset,
    select_groups,
    split_by_group,
)
from training.sources import group_pattern_for


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def test_simple_layout_reads_images_with_their_instance_labels(disc_folder: Path) -> None:
    samples = read_dataset(disc_folder)
    assert [s.stem for s in samples] == sorted(f"p{p:02}_{k}" for p in range(3) for k in range(2))
    assert {s.group for s in samples} == {"p00", "p01", "p02"}
    pixels, labels = samples[0].read()
    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int32
    assert set(np.unique(labels)) == set(range(9))
    # RGB, not BGR: the drawn nuclei are (90, 60, 140).
    np.testing.assert_allclose(pixels[labels > 0].mean(axis=0), (90, 60, 140), atol=3)


@pytest.mark.parametrize("foreground", [1, 255])
def test_binary_masks_of_0_1_and_of_0_255_are_separated_into_components(
    tmp_path: Path, foreground: int
) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:10, 5:10] = mask[20:30, 20:30] = foreground
    write(tmp_path / "images" / "a.png", np.zeros((40, 40, 3), np.uint8))
    write(tmp_path / "masks" / "a.png", mask)
    [sample] = read_dataset(tmp_path)
    assert sample.kind == "binary"
    assert sample.read()[1].max() == 2


def test_tnbc_published_layout_groups_by_slide_and_ignores_alpha(tmp_path: Path) -> None:
    truth = np.zeros((32, 32, 4), np.uint8)
    truth[..., 3] = 255
    truth[4:9, 4:9, :3] = 255
    for slide in ("01", "02"):
        write(tmp_path / f"Slide_{slide}" / f"{slide}_1.png", np.full((32, 32, 4), 255, np.uint8))
        write(tmp_path / f"GT_{slide}" / f"{slide}_1.png", truth)
    samples = read_dataset(tmp_path)
    assert [(s.stem, s.group) for s in samples] == [("01_1", "tnbc_p01"), ("02_1", "tnbc_p02")]
    labels = samples[0].read()[1]
    assert labels.max() == 1
    assert (labels > 0).sum() == 25


def test_real_tnbc_tiles_belong_to_their_patient(test_data: Path) -> None:
    groups = {s.stem: s.group for s in read_dataset(test_data)}
    assert groups["tnbc_p07_1"] == "tnbc_p07"


def test_split_keeps_every_patient_on_one_side(disc_folder: Path) -> None:
    train, validation = split_by_group(read_dataset(disc_folder), ["p01"])
    assert {s.group for s in train} == {"p00", "p02"}
    assert {s.group for s in validation} == {"p01"}
    assert len(train) + len(validation) == 6


def test_a_pattern_that_matches_nothing_is_an_error(disc_folder: Path) -> None:
    with pytest.raises(DatasetError, match="no group matches 'p7'; there are p00, p01, p02"):
        select_groups(read_dataset(disc_folder), ["p7"])


def test_holding_out_everything_is_an_error(disc_folder: Path) -> None:
    with pytest.raises(DatasetError, match="nothing is left to train on"):
        split_by_group(read_dataset(disc_folder), ["*"])


def test_a_group_pattern_overrides_the_default(disc_folder: Path) -> None:
    samples = read_dataset(disc_folder, group_pattern=r"p(\d)")
    assert {s.group for s in samples} == {"0"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [(r"^[^_]+", "no part in round brackets"), (r"^(p\d", "no regular expression")],
)
def test_a_pattern_that_names_no_patient_is_refused(
    disc_folder: Path, pattern: str, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(disc_folder, group_pattern=pattern)


def test_a_recipe_tells_the_patients_of_its_own_folders(disc_folder: Path) -> None:
    source = DataSource(
        name="mine", path=Path("mydata"), group_pattern="^(p)", validation_groups=("p",)
    )
    config = TrainingConfig(data=(source,))
    assert group_pattern_for(config, Path("/elsewhere/mydata")) == "^(p)"
    assert group_pattern_for(config, disc_folder) == DEFAULT_GROUP_PATTERN


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", np.zeros((32, 32, 3), np.uint8))
    write(tmp_path / "labels" / "a.png", np.zeros((16, 32), np.uint16))
    with pytest.raises(DatasetError, match=r"image is 32x32 px but its annotation a.png is 32x16"):
        read_dataset(tmp_path)[0].read()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "neither images/ with labels/ or masks/, nor Slide_NN/"),
        (["images/a.png"], "neither labels/ nor masks/"),
        (["images/a.png", "labels/b.png"], "no annotation for 1 of 1 images, first a.png"),
        (["Slide_01/01_1.png"], "no annotation for Slide_01/01_1.png"),
    ],
)
def test_folders_that_cannot_be_used_say_why(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        write(tmp_path / name, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_a_missing_folder_and_an_unreadable_image_say_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "none")
    write(tmp_path / "labels" / "a.png", np.zeros((32, 32), np.uint16))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="not an image that OpenCV reads"):
        read_dataset(tmp_path)[0].read()


def test_digest_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", np.zeros((32, 32, 3), np.uint8))
    write(tmp_path / "labels" / "a.png", np.zeros((32, 32), np.uint16))
    before = dataset_digest(read_dataset(tmp_path))
    assert before == dataset_digest(read_dataset(tmp_path))
    write(tmp_path / "labels" / "a.png", np.ones((32, 32), np.uint16))
    assert dataset_digest(read_dataset(tmp_path)) != before
