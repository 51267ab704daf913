"""From a trained Keras model to an ONNX graph that takes pixels and gives maps.

```
 image ── Cast ── [ the Keras model, preprocessing and all ] ─ Clip ─ x 255 ─ Round ─ Cast ─ maps
 uint8 (N, H, W, 3)                  float32                                     uint8 (N, H, W, C)
```

Three habits of Keras 3 make graphs that are wrong or slow, and are put aside while tracing:

- `keras.layers.Normalization` keeps its constants as eager tensors: they would become inputs.
- `UpSampling2D` (nearest) becomes Tile, Reshape and Transpose; as one Resize it is 4-13 % faster.
- `UpSampling2D` (bilinear) does not trace at all while H and W are unknown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from export.errors import ExportRefusedError
from service.inference.contract import INPUT_NAME, OUTPUT_NAME

OPSET: Final = 18
"""The highest that tf2onnx 1.17 writes."""


def load_model(path: Path) -> keras.Model:
    """Load a trained model for inference.

    Args:
        path: A `.keras` file that holds built-in layers only.

    Raises:
        ExportRefusedError: There is no such file, or Keras cannot read it.
    """
    if not path.is_file():
        raise ExportRefusedError(f"no trained model at {path}")
    try:
        # Compiled, a file saved under another backend names that backend's own optimizer.
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as error:
        raise ExportRefusedError(f"Keras cannot load {path}: {error}") from error


def convert(model: keras.Model) -> onnx.ModelProto:
    """Convert a model to ONNX, with the uint8 ends of the model contract.

    Args:
        model: From RGB 0..255 (N, H, W, 3) to maps in 0..1 (N, H, W, C), all layers in float32.

    Returns:
        A graph with the input `image` and the output `maps`, both uint8 with N, H and W dynamic.
        The model itself is left as it was.

    Raises:
        ExportRefusedError: The model has other inputs or outputs, or computes in a precision that
            onnxruntime refuses, or the converter left a constant outside of the graph.
    """
    _check_model(model)
    image_spec = tf.TensorSpec((None, None, None, 3), tf.uint8, name=INPUT_NAME)

    def pixels_to_maps(image: Any) -> dict[str, Any]:
        probability = model(tf.cast(image, tf.float32), training=False)
        steps = tf.round(tf.clip_by_value(probability, 0.0, 1.0) * 255.0)
        return {OUTPUT_NAME: tf.cast(steps, tf.uint8)}

    with _traceable_normalization(model), _upsampling_as_one_node():
        proto, _ = tf2onnx.convert.from_function(
            tf.function(pixels_to_maps, input_signature=[image_spec], autograph=False),
            input_signature=[image_spec],
            opset=OPSET,
        )
    _check_graph(proto)
    _name_dimensions(proto.graph.input[0])
    _name_dimensions(proto.graph.output[0])
    proto.graph.name = model.name
    onnx.checker.check_model(proto)
    return proto


def _check_model(model: keras.Model) -> None:
    """Refuse what the contract has no words for, before any time is spent."""
    if keras.backend.backend() != "tensorflow":
        raise ExportRefusedError(
            f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow to export, "
            "whatever the model was trained on"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ExportRefusedError(
            f"{model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            "the contract knows one of each"
        )
    for end, tensor in (("input", model.inputs[0]), ("output", model.outputs[0])):
        if len(tensor.shape) != 4 or tuple(tensor.shape[:3]) != (None, None, None):
            raise ExportRefusedError(
                f"the {end} of {model.name} has shape {tuple(tensor.shape)}; "
                "N, H and W must be dynamic: (None, None, None, channels)"
            )
    if model.inputs[0].shape[3] != 3:
        raise ExportRefusedError(
            f"{model.name} takes {model.inputs[0].shape[3]} channels instead of RGB"
        )
    for layer in _layers(model):
        if layer.compute_dtype not in {"float32", "uint8"}:
            raise ExportRefusedError(
                f"layer {layer.name} of {model.name} computes in {layer.compute_dtype}, which "
                "onnxruntime refuses: rebuild the model in float32 and set_weights"
            )


def _check_graph(proto: onnx.ModelProto) -> None:
    """A constant that escaped the trace shows up as a second input."""
    inputs = [tensor.name for tensor in proto.graph.input]
    outputs = [tensor.name for tensor in proto.graph.output]
    if inputs != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
        raise ExportRefusedError(
            f"the graph must have the input {INPUT_NAME!r} and the output {OUTPUT_NAME!r} alone, "
            f"it has {inputs} and {outputs}; a layer keeps constants outside of the traced graph"
        )


def _name_dimensions(tensor: onnx.ValueInfoProto) -> None:
    """Call the free dimensions N, H, W instead of `unk__12`, so that a session can fix them."""
    for dimension, name in zip(tensor.type.tensor_type.shape.dim[:3], "NHW", strict=True):
        dimension.dim_param = name


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, those of nested models included."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


@contextmanager
def _traceable_normalization(model: keras.Model) -> Iterator[None]:
    """Turn the constants of Normalization layers into NumPy arrays, and back."""
    kept = [
        (layer, layer.mean, layer.variance)
        for layer in _layers(model)
        if isinstance(layer, keras.layers.Normalization)
    ]
    try:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = np.array(mean), np.array(variance)
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance


@contextmanager
def _upsampling_as_one_node() -> Iterator[None]:
    """Let `UpSampling2D` call TensorFlow's resize operations, and afterwards its own again."""

    def call(layer: keras.layers.UpSampling2D, inputs: Any) -> Any:
        if layer.data_format != "channels_last":
            raise ExportRefusedError(f"layer {layer.name} must be channels_last")
        shape = tf.shape(inputs)
        size = tf.stack([shape[1] * layer.size[0], shape[2] * layer.size[1]])
        if layer.interpolation == "nearest":
            # True would call a deprecated ONNX rounding mode and can shift pixels.
            return tf.raw_ops.ResizeNearestNeighbor(
                images=inputs, size=size, half_pixel_centers=False
            )
        if layer.interpolation == "bilinear":
            return tf.raw_ops.ResizeBilinear(images=inputs, size=size, half_pixel_centers=True)
        raise ExportRefusedError(
            f"layer {layer.name} upsamples by {layer.interpolation}; use nearest or bilinear"
        )

    kept = keras.layers.UpSampling2D.call
    keras.layers.UpSampling2D.call = call
    try:
        yield
    finally:
        keras.layers.UpSampling2D.call = kept
