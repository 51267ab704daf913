from pathlib import Path

import numpy as np
import pytest

from export.contract import read_run
from training.augmentation import Augmentation
from training.callbacks import save_model
from training.config import TrainingConfig
from training.crops import CropDataset, LoadedImage
from training.distillation import average_view, load_teachers, soften_targets
from training.fit import build_model, fit


def teacher_file(config: TrainingConfig, folder: Path) -> str:
    path = folder / "teacher.keras"
    save_model(build_model(config, folder), path)
    return str(path)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (70, 50, 3), dtype=np.uint8)


def test_the_average_of_mirrored_views_is_mirrored_with_the_image(
    tmp_path: Path, tiny_config: TrainingConfig, pixels: np.ndarray
) -> None:
    model = build_model(tiny_config, tmp_path)
    # A size that the model takes as it is: completing by reflection is not symmetric.
    whole = pixels[:64, :32]
    mean = average_view(model, whole, 4)
    mirrored = average_view(model, np.ascontiguousarray(whole[::-1, ::-1]), 4)
    np.testing.assert_allclose(mirrored[::-1, ::-1], mean, atol=1e-5)
    assert np.abs(average_view(model, whole, 1) - mean).max() > 1e-4


def test_targets_are_the_stated_mixture(
    tmp_path: Path, tiny_config: TrainingConfig, pixels: np.ndarray
) -> None:
    model = build_model(tiny_config, tmp_path)
    hard = np.zeros((70, 50, 2), np.uint8)
    hard[10:30, 10:30] = 255
    image = LoadedImage(pixels, hard)
    (softened,) = soften_targets([image], [model, model], share=0.25, views=2)
    expected = 0.75 * hard + 0.25 * 255 * average_view(model, pixels, 2)
    np.testing.assert_allclose(softened.targets, expected, atol=0.51)
    assert softened.soft
    assert not image.soft


def test_soft_targets_reach_the_batches_soft(pixels: np.ndarray) -> None:
    targets = np.full((70, 50, 1), 90, np.uint8)

    def levels(*, soft: bool) -> set[float]:
        crops = CropDataset(
            [([LoadedImage(pixels, targets, soft=soft)], 1.0)],
            crop_px=32, batch_size=2, steps=1, augmentation=Augmentation(),
            nucleus_share=0.5, seed=0,
        )  # fmt: skip
        return set(np.unique(np.rint(crops[0][1] * 255)))

    assert levels(soft=True) == {90}
    assert levels(soft=False) == {0}


def test_a_student_keeps_what_its_teachers_have_learnt_from(
    tmp_path: Path, tiny_config: TrainingConfig
) -> None:
    short = {"epochs": 1, "steps_per_epoch": 1, "frozen_epochs": 0}
    first = tiny_config.model_copy(update=short)
    fit(first, tmp_path / "first", quiet=True)
    student = first.model_copy(update={"teachers": (str(tmp_path / "first" / "model.keras"),)})
    fit(student, tmp_path / "student", quiet=True)
    run = read_run(tmp_path / "student")
    assert [teacher.config.teachers for teacher in run.teachers] == [()]
    assert run.teachers[0].trained_stems() == run.trained_stems() != set()


def test_a_teacher_must_be_there_and_give_the_same_maps(
    tmp_path: Path, tiny_config: TrainingConfig
) -> None:
    with pytest.raises(ValueError, match=r"teacher none\.keras not found"):
        load_teachers(["none.keras"], 2)
    with pytest.raises(ValueError, match="gives 2 maps, the run learns 1"):
        load_teachers([teacher_file(tiny_config, tmp_path)], 1)
