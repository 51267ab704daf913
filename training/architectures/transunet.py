"""TransUNet (Chen et al., 2021): a U-Net whose bottleneck is a transformer.

```
image ─ ResNet50 to stride 16 ─ 1x1 ─ [ attention ─ MLP ] x 4 ─ decoder with skips ─ maps
```

As in the paper's hybrid, convolutions make the tokens and a convolutional decoder with skips spends
them. Two things differ, so that a model takes tiles of any size: the position of a token comes from
a depthwise convolution (Chu et al., Conditional Positional Encodings, ICLR 2023) in place of a
learned table, and attention runs over height and width as they are.
"""

import keras
from keras import layers

from training.architectures.decoder import decoder, head
from training.architectures.encoders import ENCODERS, Shape, build_encoder, full_resolution_skips

BACKBONE = "resnet50_unet"
WIDTH = 256
BLOCKS = 4
HEADS = 8
MLP_RATIO = 2


def transformer_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Attention over all positions, then a two-layer perceptron; both pre-normed and residual.

    Args:
        x: (N, H, W, C).
        name: prefix of the layers' names.

    Returns:
        (N, H, W, C).
    """
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_attention_norm")(x)
    y = layers.MultiHeadAttention(
        HEADS, width // HEADS, attention_axes=(1, 2), name=f"{name}_attention"
    )(y, y)
    x = layers.Add(name=f"{name}_attention_add")([x, y])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_mlp_norm")(x)
    # SiLU in place of the paper's GELU, whose complementary error function ONNX does not have.
    y = layers.Dense(MLP_RATIO * width, activation="silu", name=f"{name}_mlp_a")(y)
    y = layers.Dense(width, name=f"{name}_mlp_b")(y)
    return layers.Add(name=f"{name}_mlp_add")([x, y])


def build_transunet(
    *,
    channels: int = 1,
    encoder_weights: str | None = None,
    input_shape: Shape = (None, None, 3),
) -> keras.Model:
    """Build a TransUNet over ResNet50 down to stride 16.

    Args:
        channels: 1 (nucleus) or 2 (nucleus and distance).
        encoder_weights: None, "imagenet", or a file of ResNet50 weights.
        input_shape: (H, W, 3), None for any multiple of 32.

    Returns:
        Model from RGB 0..255 (N, H, W, 3) to maps 0..1 (N, H, W, channels).

    Raises:
        ValueError: encoder weights that do not exist or do not fit.
    """
    spec = ENCODERS[BACKBONE]
    encoder = build_encoder(spec, encoder_weights)
    image = keras.Input(input_shape, name="image")
    *skips, features = encoder(spec.preprocessing(image))
    skips = full_resolution_skips(image, skips, spec)
    tokens = layers.Conv2D(WIDTH, 1, name="tokens")(features)
    position = layers.DepthwiseConv2D(3, padding="same", name="position")(tokens)
    tokens = layers.Add(name="position_add")([tokens, position])
    for block in range(BLOCKS):
        tokens = transformer_block(tokens, f"transformer{block}")
    tokens = layers.LayerNormalization(epsilon=1e-6, name="transformer_norm")(tokens)
    x = decoder(tokens, skips, spec.widths)
    return keras.Model(image, head(x, channels), name="transunet")
