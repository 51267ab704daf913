"""Model files on disk: a graph with its contract, written whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx

from service.inference.contract import ModelContract, parse_contract


def write(proto: onnx.ModelProto, contract: ModelContract, path: Path) -> None:
    """Write a graph with its contract; the file appears whole or not at all.

    Args:
        proto: The graph.
        contract: What goes into its metadata; any metadata already there is replaced.
        path: File to write or to replace; its folder exists.
    """
    stamped = onnx.ModelProto()
    stamped.CopyFrom(proto)
    del stamped.metadata_props[:]
    onnx.helper.set_model_props(stamped, contract.to_metadata())
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(stamped.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)  # mkstemp's 0600 would hide the model from the service's user
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def store_in_full(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give weights that are stored in float16 behind a Cast back as float32 constants.

    A quantiser takes the Cast for an activation, and would leave every weight behind it in float32.

    Args:
        proto: A graph, with or without such weights; it stays as it is.

    Returns:
        A graph of the same values.
    """
    full = onnx.ModelProto()
    full.CopyFrom(proto)
    constants = {constant.name: constant for constant in full.graph.initializer}
    casts = [
        node
        for node in full.graph.node
        if node.op_type == "Cast"
        and node.input[0] in constants
        and onnx.helper.get_node_attr_value(node, "to") == onnx.TensorProto.FLOAT
    ]
    for cast in casts:
        values = onnx.numpy_helper.to_array(constants[cast.input[0]]).astype(np.float32)
        full.graph.initializer.append(onnx.numpy_helper.from_array(values, cast.output[0]))
        full.graph.node.remove(cast)
    used = {name for node in full.graph.node for name in node.input}
    kept = [constant for constant in full.graph.initializer if constant.name in used]
    del full.graph.initializer[:]
    full.graph.initializer.extend(kept)
    onnx.checker.check_model(full)
    return full


def read(path: Path) -> tuple[onnx.ModelProto, ModelContract]:
    """Read a model file.

    Returns:
        The graph, without its metadata, and the contract.

    Raises:
        ModelContractError: The file states no valid contract.
    """
    proto = onnx.load(path)
    contract = parse_contract({entry.key: entry.value for entry in proto.metadata_props})
    del proto.metadata_props[:]
    return proto, contract


def restamp(path: Path, contract: ModelContract) -> None:
    """Replace the contract of a model file, and tell its variants.

    Variants carry the contract of their reference besides what makes them variants, so they are
    stamped anew with it; those whose reference is another file are left alone. Every graph stays
    as it is, byte by byte.

    Args:
        path: The reference, `model.onnx`.
        contract: Its new contract.

    Raises:
        ModelContractError: The file, or a variant beside it, states no valid contract.
    """
    before = digest(path)
    proto, _ = read(path)
    write(proto, contract, path)
    after = digest(path)
    for variant_path in sorted(path.parent.glob(f"{path.stem}.*{path.suffix}")):
        variant_proto, stated = read(variant_path)
        if stated.variant is None or stated.variant.reference_sha256 != before:
            continue
        variant = stated.variant.model_copy(update={"reference_sha256": after})
        write(variant_proto, as_variant(contract, variant=variant), variant_path)


def as_variant(contract: ModelContract, **changes: object) -> ModelContract:
    """A reference's contract as its variant states it."""
    return contract.model_copy(update={"reduced_precisions": (), **changes})


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
