"""Reads an ONNX graph: attributes, constants, and the shapes of features."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.inference.contract import INPUT_NAME

# Below this a constant says something of shapes, and shape inference needs its value.
_SMALL_BYTES: Final = 256


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, `default` where the node does not state it."""
    if any(stated.name == name for stated in node.attribute):
        return helper.get_node_attr_value(node, name)
    return default


def float_constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """Return float32 constants by name, with those that are stored as float16 behind a Cast."""
    stored = {constant.name: constant for constant in graph.initializer}
    own = {
        name: name
        for name, constant in stored.items()
        if constant.data_type == onnx.TensorProto.FLOAT
    }
    halved = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast"
        and node.input[0] in stored
        and stored[node.input[0]].data_type == onnx.TensorProto.FLOAT16
        and attribute(node, "to", 0) == onnx.TensorProto.FLOAT
    }
    return {
        name: numpy_helper.to_array(stored[source]).astype(np.float32)
        for name, source in (own | halved).items()
    }


def shapes_for(
    proto: onnx.ModelProto, height_px: int, width_px: int
) -> Mapping[str, tuple[int, ...]]:
    """Infer the shapes of all features for one tile.

    Args:
        proto: A graph that keeps the model contract.
        height_px: Of the tile, a multiple of the contract's divisor.
        width_px: Likewise.

    Returns:
        Shapes by name; 0 where a size could not be inferred.
    """
    bare = onnx.ModelProto()
    bare.ir_version = proto.ir_version
    bare.opset_import.extend(proto.opset_import)
    bare.graph.name = proto.graph.name
    bare.graph.node.extend(proto.graph.node)
    bare.graph.output.extend(proto.graph.output)
    tile = [1, height_px, width_px, 3]
    bare.graph.input.append(helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, tile))
    for constant in proto.graph.initializer:
        if constant.ByteSize() <= _SMALL_BYTES:
            bare.graph.initializer.append(constant)
        else:
            # Weights matter by their shape alone; to copy them would take most of the time.
            bare.graph.input.append(
                helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            )
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    return {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in inferred.graph.value_info
    }
