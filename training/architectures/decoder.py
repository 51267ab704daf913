"""The expanding path that all architectures share, and the head that starts at the prior."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

ENCODER_NAME = "encoder"
"""The name of the pretrained part, so that training can freeze it."""

BATCHNORM_MOMENTUM = 0.9
"""Moving statistics follow within tens of steps. Keras' defaults (0.99, 0.999 in MobileNetV2) need
thousands: a short run then trains well and predicts blank (keras#9214)."""

FOREGROUND_PRIOR = 0.125
"""Share of nucleus pixels in TNBC; the head's bias starts there instead of at one half, so that
the first hundred steps are not spent on learning that most of a slide is not nucleus."""

DISTANCE_PRIOR = 0.06
"""Mean of the distance map: half of the foreground's share."""


def convolution_block(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """3x3 convolution, batch normalisation, ReLU; same size."""
    x = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def decoder(
    bottleneck: keras.KerasTensor,
    skips: Sequence[keras.KerasTensor],
    widths: Sequence[int],
    *,
    skip_width_limit: float = 0.75,
) -> keras.KerasTensor:
    """Up from the bottleneck to the first skip's resolution.

    ```
    bottleneck ─ up x2 ─┬─ conv ─ conv ─ up x2 ─┬─ conv ─ conv ─ ... ─ maps
    skips[-1] ─ 1x1 ────┘      skips[-2] ─ 1x1 ─┘
    ```

    Args:
        bottleneck: deepest features, stride 2**len(skips) of the first skip.
        skips: features of the contracting path, finest first, each half the size of the one before.
        widths: filters of each stage, finest first, as many as `skips`.
        skip_width_limit: a skip wider than this share of its stage's width is first reduced by a
            1x1 convolution: the expanded layers of the mobile encoders are six times too wide
            for their information, and would make the decoder larger than the encoder.

    Returns:
        Features at the resolution of `skips[0]` with `widths[0]` channels.
    """
    x = bottleneck
    for depth in range(len(skips) - 1, -1, -1):
        width, skip = widths[depth], skips[depth]
        name = f"decoder{depth}"
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_up")(x)
        if skip.shape[-1] > width:
            skip = layers.Conv2D(
                max(8, round(width * skip_width_limit)), 1, use_bias=False, name=f"{name}_reduce"
            )(skip)
            skip = layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, name=f"{name}_reduce_bn")(
                skip
            )
        x = layers.Concatenate(name=f"{name}_concat")([x, skip])
        x = convolution_block(x, width, f"{name}_a")
        if depth > 0:
            # The finest stage has the most pixels: one convolution is enough.
            x = convolution_block(x, width, f"{name}_b")
    return x


def head(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
    """1x1 convolution and sigmoid, its bias at the prior of each channel.

    Args:
        x: decoder features, (N, H, W, F).
        channels: 1 (nucleus) or 2 (nucleus and distance).

    Returns:
        Maps in 0..1, (N, H, W, channels), float32 under any precision policy.

    Raises:
        ValueError: for another number of channels.
    """
    priors = [FOREGROUND_PRIOR, DISTANCE_PRIOR]
    if not 1 <= channels <= len(priors):
        raise ValueError(f"channels must be 1 (nucleus) or 2 (nucleus, distance), not {channels}")
    output = layers.Conv2D(channels, 1, activation="sigmoid", dtype="float32", name="maps")
    result = output(x)
    kernel, _ = output.get_weights()
    bias = [math.log(prior / (1 - prior)) for prior in priors[:channels]]
    output.set_weights([kernel, np.asarray(bias, np.float32)])
    return result
