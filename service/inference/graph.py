"""What a graph must look like and do to keep the model contract, and a variant besides."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import ModelContractError
from service.inference.contract import INPUT_NAME, OUTPUT_NAME, ModelContract
from service.inference.providers import first_line


def run_once(session: Any, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Run an `onnxruntime.InferenceSession` on tiles (N, H, W, 3); return maps (N, H, W, C)."""
    maps: NDArray[np.uint8] = session.run([OUTPUT_NAME], {INPUT_NAME: tiles})[0]
    return maps


def give_back_arena(session: Any, divisor: int) -> None:
    """Let onnxruntime free what its arena on the CPU holds beyond the weights.

    It does so only at the end of a run that says so: the smallest one.

    Args:
        session: An `onnxruntime.InferenceSession` on its default provider.
        divisor: The contract's.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    tiles = np.zeros((1, divisor, divisor, 3), dtype=np.uint8)
    session.run([OUTPUT_NAME], {INPUT_NAME: tiles}, options)


def check_tensors(session: Any, contract: ModelContract) -> None:
    """Compare the graph's inputs and outputs with the contract.

    Raises:
        ModelContractError: They differ; says where.
    """
    for kind, tensors, name, depth in (
        ("input", session.get_inputs(), INPUT_NAME, 3),
        ("output", session.get_outputs(), OUTPUT_NAME, len(contract.output.channels)),
    ):
        names = [tensor.name for tensor in tensors]
        if names != [name]:
            raise ModelContractError(f"the graph's {kind}s are {names}, not ['{name}']")
        tensor = tensors[0]
        if tensor.type != "tensor(uint8)":
            raise ModelContractError(f"{kind} '{name}' is {tensor.type}, not tensor(uint8)")
        if len(tensor.shape) != 4 or tensor.shape[3] != depth:
            raise ModelContractError(
                f"{kind} '{name}' has shape {tensor.shape}, not (N, H, W, {depth})"
            )
        fixed = [size for size in tensor.shape[:3] if isinstance(size, int)]
        if fixed:
            raise ModelContractError(
                f"{kind} '{name}' has shape {tensor.shape}; N, H and W must be dynamic"
            )


def check_canary(session: Any, contract: ModelContract) -> None:
    """Run the smallest batch of unequal sides that the contract allows.

    Raises:
        ModelContractError: It does not run, or gives another shape than the contract's.
    """
    divisor = contract.input.divisor
    tiles = np.zeros((2, divisor, 2 * divisor, 3), dtype=np.uint8)
    expected = (*tiles.shape[:3], len(contract.output.channels))
    try:
        maps = run_once(session, tiles)
    except Exception as error:
        raise ModelContractError(
            f"it does not run on tiles of {divisor} x {2 * divisor} px: {first_line(error)}"
        ) from error
    if maps.shape != expected or maps.dtype != np.uint8:
        raise ModelContractError(
            f"it turns {tiles.shape} into {maps.shape}, {maps.dtype}, not {expected}, uint8"
        )


def check_variant(contract: ModelContract, reference: ModelContract, reference_digest: str) -> None:
    """Refuse a variant that was not made from the reference file beside it.

    Args:
        contract: Of the variant.
        reference: Of the `model.onnx` beside it.
        reference_digest: SHA-256 of that file, hexadecimal.

    Raises:
        ModelContractError: It is no variant, or of another model, version or file.
    """
    if contract.variant is None:
        raise ModelContractError("the contract does not say what it is a variant of")
    if (contract.name, contract.version) != (reference.name, reference.version):
        raise ModelContractError(
            f"a variant of {contract.name} {contract.version}, not of {reference.name} "
            f"{reference.version}"
        )
    made_from = contract.variant.reference_sha256
    if made_from != reference_digest:
        raise ModelContractError(
            f"made from another model.onnx (SHA-256 {made_from[:12]}..., the one beside it has "
            f"{reference_digest[:12]}...); make it anew with `python -m export quantize`, or "
            "remove it"
        )
