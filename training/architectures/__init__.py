"""The architectures, by name.

Every builder returns a `keras.Model` that takes RGB as decoded (0..255, any H and W that are
multiples of `DIVISOR`) and gives maps in 0..1: whatever scaling, channel order or mean subtraction
the encoder was made for is part of the model.
"""

from collections.abc import Callable

import keras

from training.architectures.encoders import (
    build_efficientnetb0_unet,
    build_mobilenetv2_unet,
    build_resnet50_unet,
    build_vgg16_unet,
)
from training.architectures.unet import build_unet

DIVISOR = 32
"""Height and width of every model's input are multiples of this."""

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    "vgg16_unet": build_vgg16_unet,
    "resnet50_unet": build_resnet50_unet,
    "efficientnetb0_unet": build_efficientnetb0_unet,
    "mobilenetv2_unet": build_mobilenetv2_unet,
}
"""Name -> builder(*, channels, encoder_weights, input_shape)."""
