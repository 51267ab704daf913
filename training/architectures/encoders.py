"""U-Nets over ImageNet encoders: VGG16, ResNet50, EfficientNetB0, EfficientNetV2B0, MobileNetV2.

Each encoder sees what it was trained on (sources: the `preprocess_input` of its Keras module):

| encoder | wants | here |
|---|---|---|
| VGG16, ResNet50 | BGR minus the ImageNet mean, unscaled ("caffe") | a fixed 1x1 convolution |
| EfficientNetB0, EfficientNetV2B0 | RGB 0..255; they rescale inside | nothing |
| MobileNetV2 | RGB in -1..1 | Rescaling |

The wrong scale is the first of the two classical ways to a blank mask (docs/blank-masks.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers

from training.architectures.decoder import (
    BATCHNORM_MOMENTUM,
    ENCODER_NAME,
    convolution_block,
    decoder,
    head,
)

Shape = tuple[int | None, int | None, int]

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
"""Mean of ImageNet in BGR order, as in `keras.applications.imagenet_utils`."""

STEM_WIDTH = 8
"""Filters of the full-resolution skip of encoders whose first layer already has stride 2."""


def caffe_preprocessing(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB 0..255 to mean-free BGR, as a fixed 1x1 convolution (no custom layer to load later)."""
    layer = layers.Conv2D(3, 1, trainable=False, dtype="float32", name="preprocess")
    result = layer(image)
    kernel = np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)
    layer.set_weights([np.ascontiguousarray(kernel), -np.asarray(CAFFE_MEAN_BGR, np.float32)])
    return result


def signed_preprocessing(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB 0..255 to -1..1."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocess")(image)


def no_preprocessing(image: keras.KerasTensor) -> keras.KerasTensor:
    """RGB 0..255 as it is: the encoder rescales inside."""
    return image


@dataclass(frozen=True, slots=True)
class Encoder:
    """How an application of Keras becomes the contracting path of a U-Net.

    Attributes:
        application: the Keras application.
        outputs: layers that feed the decoder, finest first; the last one is the bottleneck.
        preprocessing: from RGB 0..255 to what the application was trained on.
        widths: filters of the decoder's stages, finest first. One more than skips where the first
            layer already has stride 2: then a thin stem gives the skip at full resolution.
    """

    application: Callable[..., keras.Model]
    outputs: tuple[str, ...]
    preprocessing: Callable[[keras.KerasTensor], keras.KerasTensor]
    widths: tuple[int, ...]


ENCODERS: dict[str, Encoder] = {
    # Simonyan and Zisserman, 2015; down to stride 16.
    "vgg16_unet": Encoder(
        keras.applications.VGG16,
        ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"),
        caffe_preprocessing,
        (32, 64, 128, 256),
    ),
    # He et al., 2016; down to stride 16. The last stage (conv5, 15 of 23.6 million parameters,
    # stride 32) sees more context than a nucleus of 10 um needs.
    "resnet50_unet": Encoder(
        keras.applications.ResNet50,
        ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        caffe_preprocessing,
        (16, 32, 64, 128),
    ),
    # Tan and Le, 2019; down to stride 32.
    "efficientnetb0_unet": Encoder(
        keras.applications.EfficientNetB0,
        (
            "block2a_expand_activation",
            "block3a_expand_activation",
            "block4a_expand_activation",
            "block6a_expand_activation",
            "block7a_project_bn",
        ),
        no_preprocessing,
        (16, 32, 48, 64, 128),
    ),
    # Tan and Le, 2021; down to stride 32. Fused convolutions in the fine stages, and skips that are
    # narrow by themselves.
    "efficientnetv2b0_unet": Encoder(
        keras.applications.EfficientNetV2B0,
        (
            "block1a_project_activation",
            "block2b_add",
            "block3b_add",
            "block5e_add",
            "block6h_add",
        ),
        no_preprocessing,
        (16, 32, 48, 64, 128),
    ),
    # Sandler et al., 2018; down to stride 32.
    "mobilenetv2_unet": Encoder(
        keras.applications.MobileNetV2,
        (
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "block_16_project",
        ),
        signed_preprocessing,
        (16, 32, 48, 64, 128),
    ),
}


def build_encoder_unet(
    name: str,
    *,
    channels: int = 1,
    encoder_weights: str | None = None,
    input_shape: Shape = (None, None, 3),
) -> keras.Model:
    """Build a U-Net over one of `ENCODERS`.

    Args:
        name: a key of `ENCODERS`, and the model's name.
        channels: 1 (nucleus) or 2 (nucleus and distance).
        encoder_weights: None, "imagenet", or a file of encoder weights.
        input_shape: (H, W, 3), None for any multiple of 32.

    Returns:
        Model from RGB 0..255 (N, H, W, 3) to maps 0..1 (N, H, W, channels).

    Raises:
        ValueError: encoder weights that do not exist or do not fit.
    """
    spec = ENCODERS[name]
    encoder = build_encoder(spec, encoder_weights)
    image = keras.Input(input_shape, name="image")
    *skips, bottleneck = encoder(spec.preprocessing(image))
    skips = full_resolution_skips(image, skips, spec)
    x = decoder(bottleneck, skips, spec.widths)
    return keras.Model(image, head(x, channels), name=name)


def full_resolution_skips(
    image: keras.KerasTensor, skips: Sequence[keras.KerasTensor], spec: Encoder
) -> list[keras.KerasTensor]:
    """Complete an encoder's skips by thin features at full resolution, where it has none.

    Args:
        image: the model's input, RGB 0..255.
        skips: features of the encoder, finest first.
        spec: the encoder.
    """
    if len(spec.widths) == len(skips):
        return list(skips)
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="stem_scale")(image)
    return [convolution_block(scaled, STEM_WIDTH, "stem"), *skips]


def build_encoder(spec: Encoder, weights: str | None) -> keras.Model:
    """Build an application without its top, load weights, and cut it at the named layers.

    Args:
        spec: which application, and where to cut it.
        weights: None, "imagenet", or a file of encoder weights.

    Returns:
        Model from the preprocessed image to the features of `spec.outputs`, finest first.

    Raises:
        ValueError: when a weights file does not exist or does not fit.
    """
    application = spec.application
    if weights is None or weights == "imagenet":
        full = application(include_top=False, weights=weights, input_shape=(None, None, 3))
    else:
        full = application(include_top=False, weights=None, input_shape=(None, None, 3))
        load_encoder_file(full, Path(weights))
    if weights is None:
        # From scratch the statistics must follow quickly; pretrained ones are kept as they are.
        # Stochastic depth is for hundreds of epochs on ImageNet: a run of some hundred steps
        # underfits, and leaving out blocks only slows it (docs/results, "What was tried").
        for layer in full.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = BATCHNORM_MOMENTUM
            elif isinstance(layer, layers.Dropout):
                layer.rate = 0.0
    return keras.Model(
        full.input, [full.get_layer(name).output for name in spec.outputs], name=ENCODER_NAME
    )


def load_encoder_file(encoder: keras.Model, path: Path) -> None:
    """Load a complete or partial weights file into an encoder, layer by layer, by name.

    Args:
        encoder: an application without its top.
        path: a legacy Keras `.h5` weights file; layers that it lacks stay as they are.

    Raises:
        ValueError: when the file is missing, is no weights file, or fits no layer of the encoder.
    """
    if not path.is_file():
        raise ValueError(f"encoder weights {path} not found; give a file, 'imagenet' or 'none'")
    before = [weight.copy() for weight in encoder.get_weights()]
    try:
        encoder.load_weights(str(path), by_name=True)
    except OSError as error:
        raise ValueError(
            f"encoder weights {path.name} is no Keras weights file ({path}); give a .h5 file of "
            "weights, 'imagenet' or 'none'"
        ) from error
    changed = sum(
        not np.array_equal(old, new) for old, new in zip(before, encoder.get_weights(), strict=True)
    )
    if changed == 0:
        raise ValueError(
            f"encoder weights {path} hold no layer of {encoder.name}; give those of that network"
        )
