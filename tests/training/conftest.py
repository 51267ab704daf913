"""Small annotated folders for the tests of training: drawn discs and the committed H&E tiles."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.config import DataSource, TrainingConfig


def draw_discs(
    size_px: int, count: int, radius_px: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """An H&E-coloured image of dark discs that do not overlap, and its labels."""
    random = np.random.default_rng(seed)
    labels = np.zeros((size_px, size_px), np.int32)
    number = 0
    for _ in range(2000):
        if number == count:
            break
        x, y = random.integers(radius_px, size_px - radius_px, 2)
        disc = np.zeros((size_px, size_px), np.uint8)
        cv2.circle(disc, (int(x), int(y)), radius_px, 1, -1)
        if not (labels[cv2.dilate(disc, np.ones((5, 5), np.uint8)) > 0] > 0).any():
            number += 1
            labels[disc > 0] = number
    pixels = np.empty((size_px, size_px, 3), np.float32)
    pixels[:] = (225, 180, 210)
    pixels[labels > 0] = (90, 60, 140)
    pixels += random.normal(0, 8, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def disc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 96x96 images of three patients in the simple layout, instance labels."""
    root = tmp_path_factory.mktemp("discs")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for patient in range(3):
        for k in range(2):
            pixels, labels = draw_discs(96, 8, 8, seed=10 * patient + k)
            cv2.imwrite(str(root / f"images/p{patient:02}_{k}.png"), pixels[..., ::-1])
            cv2.imwrite(str(root / f"labels/p{patient:02}_{k}.png"), labels.astype(np.uint16))
    return root


@pytest.fixture(scope="session")
def he_folder(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Path:
    """The committed H&E tiles, copied so that a test may add to them."""
    root = tmp_path_factory.mktemp("he")
    shutil.copytree(test_data / "images", root / "images")
    shutil.copytree(test_data / "labels", root / "labels")
    return root


@pytest.fixture
def tiny_config(disc_folder: Path) -> TrainingConfig:
    """Two epochs of two steps on the discs, with the network that is quickest to trace."""
    return TrainingConfig(
        architecture="unet",
        data=(DataSource(name="discs", path=disc_folder, validation_groups=("p02",)),),
        crop_px=32,
        batch_size=2,
        steps_per_epoch=2,
        epochs=2,
        warmup_steps=2,
        seed=3,
    )


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Run each operation at once under TensorFlow: for a few steps, tracing takes far longer.

    Tests of what stands around the steps (folders, records, resuming) lose nothing by it; other
    tests train the traced graphs.
    """
    tensorflow = pytest.importorskip("tensorflow", reason="needs the extra `train`")
    tensorflow.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        # It warns of what it leaves as it is: the functions of tf.data.
        warnings.filterwarnings("ignore", message="Even though the `tf.config")
        yield
    tensorflow.config.run_functions_eagerly(False)
