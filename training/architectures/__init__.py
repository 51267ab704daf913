"""The architectures, by name.

Every builder returns a `keras.Model` that takes RGB as decoded (0..255, any H and W that are
multiples of `DIVISOR`) and gives maps in 0..1: whatever scaling, channel order or mean subtraction
the encoder was made for is part of the model.
"""

from collections.abc import Callable
from functools import partial

import keras

from training.architectures.encoders import ENCODERS, build_encoder_unet
from training.architectures.transunet import build_transunet
from training.architectures.unet import build_unet

DIVISOR = 32
"""Height and width of every model's input are multiples of this."""

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    **{name: partial(build_encoder_unet, name) for name in ENCODERS},
    "transunet": build_transunet,
}
"""Name -> builder(*, channels, encoder_weights, input_shape)."""
