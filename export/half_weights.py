"""Store the large weights of a model file in half precision, at no cost in accuracy that is hidden.

```
 Keras weights ── round to float16 ──► convert ──► store as float16 + Cast ──► model.onnx
       └─ as they are once batch normalisation is folded in      └─ onnxruntime folds it at load
```

The file becomes half as large and computes in float32 as before. The rounding happens in the
trained model, so that the comparison with Keras, the thresholds and every figure are those of the
rounded weights. The converter folds batch normalisation into the convolution before it; a kernel is
therefore rounded as it will be folded.
"""

from collections.abc import Iterator
from typing import Final

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

LEAST_ELEMENTS: Final = 1024
"""Smaller constants are not worth a node of the graph."""

_FOLDING_ERROR: Final = 1e-6
"""Relative error of folding in float32, which is far below a step of float16 (5e-4)."""
_MOST_FLOAT16: Final = float(np.finfo(np.float16).max)


def round_weights(model: keras.Model) -> None:
    """Round the large kernels of a model to float16, in place.

    Args:
        model: The trained model, in float32. Kernels of convolutions that batch normalisation
            follows are rounded as folded; depthwise ones, which are small, stay as they are.
    """
    layers = list(_layers(model))
    scales = {
        id(normalization.input._keras_history.operation): _scale(normalization)  # noqa: SLF001  Keras has no public way from a tensor to its layer
        for normalization in layers
        if isinstance(normalization, keras.layers.BatchNormalization)
    }
    for layer in layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.DepthwiseConv2D | keras.Model) or not weights:
            continue
        scale = scales.get(id(layer)) if isinstance(layer, keras.layers.Conv2D) else None
        layer.set_weights(
            [
                _rounded(value, scale) if value.ndim > 1 and value.size >= LEAST_ELEMENTS else value
                for value in weights
            ]
        )


def store_in_half(proto: onnx.ModelProto) -> float:
    """Store float32 constants that float16 holds as float16 with a Cast, in place.

    Constants that would change by more than the error of folding stay in float32: nothing is
    rounded here.

    Args:
        proto: A converted graph.

    Returns:
        Share of the bytes of all float32 constants that are now stored in half, 0..1.
    """
    total_bytes, half_bytes = 0, 0
    casts = []
    for constant in proto.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(constant)
        total_bytes += values.nbytes
        if values.size < LEAST_ELEMENTS or np.abs(values).max() > _MOST_FLOAT16:
            continue
        half = values.astype(np.float16)
        if not np.all(np.abs(half.astype(np.float32) - values) <= _FOLDING_ERROR * np.abs(values)):
            continue
        half_bytes += values.nbytes
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_float16"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [constant.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    return half_bytes / total_bytes if total_bytes else 0.0


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _scale(normalization: keras.layers.BatchNormalization) -> NDArray[np.float32]:
    """What batch normalisation multiplies each channel by."""
    variance = np.asarray(normalization.moving_variance)
    gamma = np.asarray(normalization.gamma) if normalization.scale else np.float32(1)
    return np.asarray(gamma / np.sqrt(variance + normalization.epsilon), dtype=np.float32)


def _rounded(values: NDArray[np.float32], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Round what is folded, and undo the folding; channels are the last axis."""
    folded = values if scale is None else values * scale
    if np.abs(folded).max() > _MOST_FLOAT16:
        return values
    rounded = folded.astype(np.float16).astype(np.float32)
    if scale is None:
        return rounded
    return np.divide(rounded, scale, out=values.copy(), where=scale != 0)
