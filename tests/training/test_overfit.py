"""All architectures overfit one batch of real tiles, in inference mode.

The plain check that finds any cause of blank masks (docs/blank-masks.md), and the cause that shows
only when a network has been trained for a while.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from training.architectures import ARCHITECTURES
from training.config import DataSource, TrainingConfig
from training.fit import compile_model
from training.targets import make_targets

NAMES = list(ARCHITECTURES)


def config(name: str, **values: object) -> TrainingConfig:
    source = DataSource(name="any", path=Path(), validation_groups=("any",))
    return TrainingConfig.model_validate({"architecture": name, "data": [source], **values})


def one_batch(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    targets = make_targets(labels, 2)
    windows = [np.s_[256:320, 192:256], np.s_[64:128, 320:384]]
    images = np.stack([pixels[w] for w in windows]).astype(np.float32)
    return images, np.stack([targets[w] for w in windows]).astype(np.float32) / 255


def dice(model: keras.Model, images: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    found = np.asarray(model(images, training=False))[..., 0] > 0.5
    nucleus = truth[..., 0] > 0.5
    return float(2 * (found & nucleus).sum() / (found.sum() + nucleus.sum()))


def overfit(
    model: keras.Model,
    settings: TrainingConfig,
    batch: tuple[NDArray[np.float32], NDArray[np.float32]],
    most_steps: int = 240,
) -> float:
    compile_model(model, settings, freeze_encoder=False)
    images, truth = batch
    reached = 0.0
    for step in range(1, most_steps + 1):
        model.train_on_batch(images, truth)
        if step % 30 == 0:
            reached = dice(model, images, truth)
            if reached >= 0.95:
                break
    return reached


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_overfits_one_batch_in_inference_mode(
    name: str, he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES[name](channels=2)
    reached = overfit(model, config(name), one_batch(he_pixels, he_labels))
    assert reached >= 0.95


@pytest.mark.slow
def test_cause_2_slow_batchnorm_statistics_train_well_and_predict_blank(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    batch = one_batch(he_pixels, he_labels)
    keras.utils.set_random_seed(0)
    slow = ARCHITECTURES["unet"](channels=2)
    for layer in slow.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.999
    reached = overfit(slow, config("unet"), batch, most_steps=60)
    nucleus = batch[1][..., 0] > 0.5
    while_training = np.asarray(slow(batch[0], training=True))[..., 0] > 0.5
    trained = 2 * (while_training & nucleus).sum() / (while_training.sum() + nucleus.sum())
    assert trained > 0.85
    assert reached < 0.6
