"""What a model file costs: parameters, operations, bytes, and milliseconds of this machine."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime

from export.onnx_file import read
from service.inference.contract import INPUT_NAME
from service.inference.session import ModelSession

TILE_PX: Final = 512
_MEGA: Final = 1e6
_COUNTED: Final = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_CPU_INFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs.

    Attributes:
        parameters: Numbers in the file's constants, batch normalisation folded in.
        gigaflops: Floating-point operations of convolutions and matrix products in one tile of
            `TILE_PX`, a multiplication and an addition counting as two, in 1e9.
        megabytes: Size of the file, in 1e6 bytes.
        cpu_ms: Processor time of one tile on one core, the least of several runs.
    """

    parameters: int
    gigaflops: float
    megabytes: float
    cpu_ms: float | None


def measure_cost(path: Path, *, repeats: int) -> Cost:
    """Measure a model file.

    Args:
        path: The file.
        repeats: Timed runs; 0 leaves the time out.

    Raises:
        ModelContractError: It is no model file.
    """
    proto, _ = read(path)
    return Cost(
        parameters=count_parameters(proto),
        gigaflops=2e-9 * count_multiplications(proto, TILE_PX),
        megabytes=path.stat().st_size / _MEGA,
        cpu_ms=_time_ms(path, repeats) if repeats else None,
    )


def count_parameters(proto: onnx.ModelProto) -> int:
    """Numbers in the floating-point constants of a graph."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    return sum(
        int(np.prod(constant.dims))
        for constant in proto.graph.initializer
        if constant.data_type in kinds
    )


def count_multiplications(proto: onnx.ModelProto, side_px: int) -> int:
    """Multiplications of convolutions and matrix products in one tile.

    The graph runs once with the shapes of these nodes as further outputs: sizes that depend on the
    image are beyond static shape inference.

    Args:
        proto: A graph of the model contract.
        side_px: Height and width of the tile in pixels.
    """
    shaped = onnx.ModelProto()
    shaped.CopyFrom(proto)
    counted = [node for node in proto.graph.node if node.op_type in _COUNTED]
    wanted = list(
        dict.fromkeys(name for node in counted for name in (*node.input[:2], node.output[0]))
    )
    constants = {c.name: tuple(c.dims) for c in proto.graph.initializer}
    names = [name for name in wanted if name not in constants]
    for name in names:
        shape = f"{name}_shape_of"
        shaped.graph.node.append(onnx.helper.make_node("Shape", [name], [shape]))
        shaped.graph.output.append(
            onnx.helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, None)
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        shaped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    tile = np.zeros((1, side_px, side_px, 3), dtype=np.uint8)
    outputs = [f"{name}_shape_of" for name in names]
    found = session.run(outputs, {INPUT_NAME: tile}) if outputs else []
    shapes = constants | {
        name: tuple(int(size) for size in shape) for name, shape in zip(names, found, strict=True)
    }
    return sum(_multiplications(node, shapes) for node in counted)


def _multiplications(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    left, right, output = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        # Kernel: (output channels, input channels of a group, height, width).
        return int(np.prod(output)) * int(np.prod(right[1:]))
    if node.op_type == "ConvTranspose":
        return int(np.prod(left)) * int(np.prod(right[1:]))
    inner = right[-2]
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        inner = right[-1]
    return int(np.prod(output)) * inner


def _time_ms(path: Path, repeats: int) -> float:
    """Processor time: other work on the machine hardly changes it, wall time it would."""
    session = ModelSession.load(path, provider="cpu", threads=1)
    random = np.random.default_rng(0)
    tile = random.integers(0, 256, (1, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    session.run(tile)
    times = []
    for _ in range(repeats):
        start_s = time.process_time()
        session.run(tile)
        times.append(time.process_time() - start_s)
    return min(times) * 1000


def machine() -> str:
    """The processor's name and what ran on it."""
    processor = platform.processor() or platform.machine()
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return f"{processor}, onnxruntime {onnxruntime.__version__}"
