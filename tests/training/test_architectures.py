"""Every architecture learns, and none comes out blank: one test for each known cause.

The causes are told in docs/blank-masks.md.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from training.architectures import ARCHITECTURES
from training.architectures.decoder import ENCODER_NAME, FOREGROUND_PRIOR
from training.architectures.encoders import load_encoder_file
from training.config import DataSource, TrainingConfig
from training.fit import compile_model

NAMES = list(ARCHITECTURES)
PREPROCESSING = {
    "vgg16_unet": keras.applications.vgg16.preprocess_input,
    "resnet50_unet": keras.applications.resnet50.preprocess_input,
    "efficientnetb0_unet": keras.applications.efficientnet.preprocess_input,
    "efficientnetv2b0_unet": keras.applications.efficientnet_v2.preprocess_input,
    "mobilenetv2_unet": keras.applications.mobilenet_v2.preprocess_input,
}


def config(name: str, **values: object) -> TrainingConfig:
    source = DataSource(name="any", path=Path(), validation_groups=("any",))
    return TrainingConfig.model_validate({"architecture": name, "data": [source], **values})


@pytest.mark.parametrize("name", NAMES)
def test_takes_any_multiple_of_32_and_starts_at_the_prior(
    name: str, he_pixels: NDArray[np.uint8]
) -> None:
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES[name](channels=2)
    # With the batch's statistics, as in the first step: VGG16 has no normalisation of its own.
    maps = np.asarray(model(he_pixels[None, :64, :96].astype(np.float32), training=True))
    assert maps.shape == (1, 64, 96, 2)
    assert maps.dtype == np.float32
    # Random features tilt each pixel, the bias holds the mean: far below one half.
    assert FOREGROUND_PRIOR / 6 < maps[..., 0].mean() < 0.4


@pytest.mark.parametrize("name", list(PREPROCESSING))
def test_the_encoder_sees_what_it_was_trained_on(name: str, he_pixels: NDArray[np.uint8]) -> None:
    model = ARCHITECTURES[name](channels=1)
    tile = he_pixels[None, :64, :64].astype(np.float32)
    expected = PREPROCESSING[name](tile.copy())
    encoder = model.get_layer(ENCODER_NAME)
    seen = tile
    for layer in model.layers:
        if layer.name == "preprocess":
            seen = np.asarray(layer(tile))
    np.testing.assert_allclose(seen, np.asarray(expected), atol=2e-4)
    # And it is this, nothing else, that is wired into the encoder.
    deepest = max(layer.name for layer in model.layers if layer.name.endswith("_up"))
    probe = keras.Model(model.input, model.get_layer(deepest).input)
    alone = np.asarray(encoder(expected)[-1])
    np.testing.assert_allclose(np.asarray(probe(tile)), alone, atol=1e-3 * np.abs(alone).max())


def test_cause_1_a_second_rescaling_takes_the_contrast_from_efficientnet(
    he_pixels: NDArray[np.uint8],
) -> None:
    keras.utils.set_random_seed(0)
    encoder = ARCHITECTURES["efficientnetb0_unet"](channels=1).get_layer(ENCODER_NAME)
    first = keras.Model(encoder.input, encoder.get_layer("stem_conv").output)
    tile = he_pixels[None, :64, :64].astype(np.float32)
    contrast = np.asarray(first(tile)).std()
    lost = np.asarray(first(tile / 255)).std()
    assert contrast > 200 * lost


def test_scratch_encoders_follow_quickly_and_pretrained_ones_keep_their_statistics() -> None:
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES["mobilenetv2_unet"](channels=1)
    norm = model.get_layer(ENCODER_NAME).get_layer("bn_Conv1")
    assert norm.momentum == pytest.approx(0.9)
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    truth = random.integers(0, 2, (2, 32, 32, 1)).astype(np.float32)
    for mode, moves in (("inference", False), ("training", True)):
        before = np.asarray(norm.moving_mean).copy()
        compile_model(
            model, config("mobilenetv2_unet", encoder_batchnorm=mode), freeze_encoder=False
        )
        model.train_on_batch(images, truth)
        moved = np.abs(np.asarray(norm.moving_mean) - before).max()
        assert moved > 1e-6 if moves else moved == 0


def test_a_frozen_encoder_does_not_learn() -> None:
    model = ARCHITECTURES["mobilenetv2_unet"](channels=1)
    encoder = model.get_layer(ENCODER_NAME)
    before = [w.copy() for w in encoder.get_weights()]
    compile_model(model, config("mobilenetv2_unet"), freeze_encoder=True)
    model.train_on_batch(np.ones((1, 32, 32, 3)), np.ones((1, 32, 32, 1)))
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("name", "file", "layer"),
    [
        ("mobilenetv2_unet", "mobilenet_v2_1.0_224_no_top_rebuilt.h5", "block_16_project"),
        ("efficientnetv2b0_unet", "efficientnetv2-b0_notop_rebuilt.h5", "block6h_project_conv"),
        ("resnet50_unet", "resnet50_caffe_conv1_to_conv4_partial_notop.h5", "conv4_block6_3_conv"),
        ("vgg16_unet", "vgg16_block1_block2_partial_notop.h5", "block2_conv2"),
    ],
)
def test_encoder_weights_are_read_from_complete_and_partial_files(
    shared: Path, name: str, file: str, layer: str
) -> None:
    keras.utils.set_random_seed(0)
    random = ARCHITECTURES[name](channels=1).get_layer(ENCODER_NAME)
    keras.utils.set_random_seed(0)
    loaded = ARCHITECTURES[name](channels=1, encoder_weights=str(shared / "weights" / file))
    loaded = loaded.get_layer(ENCODER_NAME)
    kernel = loaded.get_layer(layer).get_weights()[0]
    assert np.abs(kernel - random.get_layer(layer).get_weights()[0]).max() > 0
    assert np.isfinite(kernel).all()


def test_a_missing_or_foreign_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found"):
        ARCHITECTURES["mobilenetv2_unet"](encoder_weights=str(tmp_path / "none.h5"))
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="nothing_like_it")])
    path = tmp_path / "other.weights.h5"
    other.save_weights(path)
    encoder = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    with pytest.raises(ValueError, match=r"other\.weights\.h5"):
        load_encoder_file(encoder, path)


def test_channels_and_weights_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be 1"):
        ARCHITECTURES["unet"](channels=3)
    with pytest.raises(ValueError, match="no pretrained encoder"):
        ARCHITECTURES["unet"](encoder_weights="imagenet")


def test_the_transformer_sees_the_whole_tile() -> None:
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES["transunet"](channels=1)
    features = keras.Model(model.input, model.get_layer("transformer_norm").output)
    tokens = keras.Model(model.input, model.get_layer("position_add").output)
    image = np.random.default_rng(0).uniform(0, 255, (1, 512, 64, 3)).astype(np.float32)
    changed = image.copy()
    changed[:, :32] = 0
    # What convolutions alone make of the far end does not change; what attention makes of it does.
    far = np.s_[:, -2:]
    before, after = (np.asarray(tokens(pixels))[far] for pixels in (image, changed))
    np.testing.assert_allclose(before, after, atol=1e-4)
    before, after = (np.asarray(features(pixels))[far] for pixels in (image, changed))
    assert np.abs(before - after).max() > 1e-3
