"""Plain U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with batch normalisation."""

import keras
from keras import layers

from training.architectures.decoder import convolution_block, decoder, head

WIDTHS = (32, 64, 128, 256)
BOTTLENECK_WIDTH = 512


def build_unet(
    *,
    channels: int = 1,
    encoder_weights: str | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> keras.Model:
    """Build a U-Net of 32..512 filters with same-size convolutions, trained from random weights.

    Args:
        channels: 1 (nucleus) or 2 (nucleus and distance).
        encoder_weights: must be None; there are no pretrained weights for it.
        input_shape: (H, W, 3), None for any multiple of 32.

    Returns:
        Model from RGB 0..255 (N, H, W, 3) to maps 0..1 (N, H, W, channels).

    Raises:
        ValueError: when encoder weights are asked for.
    """
    if encoder_weights is not None:
        raise ValueError("unet has no pretrained encoder: leave encoder_weights empty")
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocess")(image)
    skips = []
    for depth, width in enumerate(WIDTHS):
        x = convolution_block(x, width, f"encoder{depth}_a")
        x = convolution_block(x, width, f"encoder{depth}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"encoder{depth}_pool")(x)
    x = convolution_block(x, BOTTLENECK_WIDTH, "bottleneck_a")
    x = convolution_block(x, BOTTLENECK_WIDTH, "bottleneck_b")
    x = decoder(x, skips, WIDTHS)
    return keras.Model(image, head(x, channels), name="unet")
