"""The Keras model of an exported file: its architecture built anew, with the weights of the file.

A run folder with its `model.keras` is not part of the repository, and the row of Keras needs a
model that gives the ceiling's count. The exporter leaves the layers' names on the graph's weights
and multiplies most batch normalisations into the convolutions before them, so that each weight can
be put back where it belongs: what a normalisation still does stands in its scale and offset.

    python -m benchmarks.peers.keras_twin model.onnx model.keras
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from training.architectures import ARCHITECTURES

# What follows the layer's name in that of its weight, or of its node.
_OPERATIONS = ("convolution", "depthwise", "BiasAdd")


class NoTwinError(RuntimeError):
    """The file's weights do not fit the architecture that it names."""


def keras_twin(path: Path) -> keras.Model:
    """Build the Keras model of an exported file.

    Args:
        path: An ONNX file of `python -m export model`, not quantised.

    Returns:
        Model from RGB 0..255 float32 (N, H, W, 3) to maps 0..1 float32 (N, H, W, C).

    Raises:
        NoTwinError: A convolution of one is not in the other, or has another shape.
    """
    proto = onnx.load(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    contract = json.loads(metadata["karyon.contract"])
    model = ARCHITECTURES[contract["architecture"]](channels=len(contract["output"]["channels"]))
    graph = _Graph(proto)
    left = {
        (owner.name, layer.name): layer
        for owner in _models(model)
        for layer in owner.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
    }
    for node in graph.convolutions():
        place = graph.place(node, model.name)
        layer = left.pop(place, None)
        if layer is None:
            raise NoTwinError(f"{model.name} has no convolution {'/'.join(place)}, or only one")
        _fill(layer, *graph.affine(node))
    if left:
        raise NoTwinError(f"{path} has no weights for {sorted(left)}")
    return model


def _models(model: keras.Model) -> Iterator[keras.Model]:
    """The model and all that are nested in it."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def _fill(
    layer: Any, kernel: NDArray[np.float32], scale: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    """Give a convolution its weights, and the normalisation behind it what is left of it.

    Args:
        layer: A Conv2D, or a DepthwiseConv2D.
        kernel: As ONNX has it: (out, in, height, width), depthwise (channels, 1, height, width).
        scale: What follows the convolution multiplies by it, (out,).
        bias: And adds this, (out,).
    """
    wanted = layer.get_weights()
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    weights = [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]
    followers = [node.operation for node in layer._outbound_nodes]  # noqa: SLF001  no public way
    normalisation = next(
        (own for own in followers if isinstance(own, keras.layers.BatchNormalization)), None
    )
    if normalisation is None:
        weights.append(bias)
    else:
        zero, one = np.zeros_like(bias), np.ones_like(bias)
        # It divides by sqrt(variance + epsilon), which a variance of 1 - epsilon makes 1.
        normalisation.set_weights([scale, bias, zero, one - normalisation.epsilon])
    if [value.shape for value in weights] != [value.shape for value in wanted]:
        raise NoTwinError(f"{layer.name} has another shape in the file")
    layer.set_weights(weights)


class _Graph:
    """The part of an ONNX graph that holds convolutions and what was done with their results."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
        }
        for node in self.nodes:
            if node.op_type == "Cast" and node.input[0] in self.constants:
                # Weights are stored in half precision, and computed with in float32.
                self.constants[node.output[0]] = self.constants[node.input[0]].astype(np.float32)
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def convolutions(self) -> list[onnx.NodeProto]:
        """All convolutions."""
        return [node for node in self.nodes if node.op_type == "Conv"]

    def place(self, node: onnx.NodeProto, model: str) -> tuple[str, str]:
        """Return the names of the Keras model and of its layer that became a convolution.

        Raises:
            NoTwinError: Neither its weight nor itself is named after a layer.
        """
        for name in (node.input[1], node.name):
            parts = name.split("/")
            for owner, layer, operation in zip(["", *parts], parts, parts[1:], strict=False):
                if operation.startswith(_OPERATIONS):
                    return owner.removesuffix("_1") or model, layer.removesuffix("_1")
        raise NoTwinError(f"nothing says which layer became {node.name}")

    def affine(
        self, node: onnx.NodeProto
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return kernel, scale and bias of a convolution and of what follows by constants."""
        kernel = self.constants[node.input[1]]
        channels = kernel.shape[0]
        scale = np.ones(channels, np.float32)
        bias = np.zeros(channels, np.float32)
        if len(node.input) > 2:
            bias = self.constants[node.input[2]].reshape(channels)
        users = self.users[node.output[0]]
        while len(users) == 1 and "batchnorm" in users[0].name:
            (constant,) = (
                self.constants[name].reshape(channels)
                for name in users[0].input
                if name in self.constants
            )
            if users[0].op_type == "Mul":
                scale, bias = scale * constant, bias * constant
            else:
                bias = bias + constant
            users = self.users[users[0].output[0]]
        return kernel, scale, bias


def main() -> None:
    """Write the twin of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    keras_twin(arguments.model).save(arguments.out)


if __name__ == "__main__":
    main()
