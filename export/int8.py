"""Static 8-bit quantisation, and the search for what must stay in float32.

Weights are quantised per channel to signed, activations per tensor to unsigned 8 bits, written as
QuantizeLinear/DequantizeLinear pairs (QDQ), which onnxruntime's own CPU kernels, OpenVINO and
TensorRT all read. The ranges of the activations come from real tiles of training images.

Which nodes stay in float32 is measured, not guessed: everything is quantised first; where that
costs too much, the graph's convolutions are cut into consecutive groups, each group is left out in
turn, and the one that helps most stays out, until the accuracy is within the limits. What stays out
is then halved for as long as the limits hold.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.accuracy import describe, excess
from export.onnx_file import store_in_full
from service.inference.contract import INPUT_NAME, VariantAccuracy

Ranges = Literal["minmax", "percentile"]

GROUPS: Final = 8
"""Pieces that the convolutions are cut into to find those that hurt."""

_TILES_AT_ONCE: Final = 2
_PERCENTILE: Final = 99.99
_METHODS: Final[dict[Ranges, tuple[Any, dict[str, float]]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": _PERCENTILE}),
}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A quantised graph, what it leaves out, and how far it is from the limits."""

    proto: onnx.ModelProto
    ranges: Ranges
    excluded: list[str]
    excess: float


class _Tiles(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Hands tiles to the calibrator, one by one."""

    def __init__(self, tiles: Sequence[NDArray[np.uint8]]) -> None:
        self._left = iter(tiles)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next input, None at the end."""
        tile = next(self._left, None)
        return None if tile is None else {INPUT_NAME: tile[None]}


class Quantiser:
    """Quantises one graph, as often as the search asks; ranges are measured once a method."""

    def __init__(self, prepared: Path, tiles: Sequence[NDArray[np.uint8]]) -> None:
        self._prepared, self._tiles = prepared, tiles
        self._ranges: dict[Ranges, Any] = {}
        self.convolutions = [
            node.name for node in self.prepared().graph.node if node.op_type == "Conv"
        ]

    def prepared(self) -> onnx.ModelProto:
        """The graph in float32, folded and fused."""
        proto: onnx.ModelProto = onnx.load(self._prepared)
        del proto.metadata_props[:]
        return proto

    def quantise(self, ranges: Ranges, excluded: Sequence[str] = ()) -> onnx.ModelProto:
        """Quantise all nodes but those excluded.

        Args:
            ranges: How the range of an activation is taken from the tiles: `minmax`, or
                `percentile`, which cuts off the rarest values.
            excluded: Names of nodes that stay in float32.
        """
        if ranges not in self._ranges:
            self._ranges[ranges] = self._measure(ranges)
        quantizer = QDQQuantizer(
            self.prepared(),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges[ranges],
            nodes_to_quantize=[],
            nodes_to_exclude=list(excluded),
            op_types_to_quantize=list(QDQRegistry),
            extra_options={},
        )
        quantizer.quantize_model()
        proto: onnx.ModelProto = quantizer.model.model
        del proto.metadata_props[:]
        return proto

    def _measure(self, ranges: Ranges) -> Any:
        """Run the tiles, and note the range of every activation."""
        method, options = _METHODS[ranges]
        calibrator = create_calibrator(
            self._prepared,
            list(QDQRegistry),
            augmented_model_path=str(self._prepared.with_name(f"{ranges}.onnx")),
            calibrate_method=method,
            extra_options=options,
        )
        # Histograms of every activation take long, and need fewer tiles than extremes do.
        tiles = self._tiles if ranges == "minmax" else self._tiles[:: -(-len(self._tiles) // 8)]
        # A few at a time: the calibrator keeps every activation of what it is handed at once.
        for start in range(0, len(tiles), _TILES_AT_ONCE):
            with redirect_stdout(io.StringIO()):  # the histograms announce themselves
                calibrator.collect_data(_Tiles(tiles[start : start + _TILES_AT_ONCE]))
        with redirect_stdout(io.StringIO()):
            return calibrator.compute_data()


@contextmanager
def open_quantiser(
    proto: onnx.ModelProto, tiles: Sequence[NDArray[np.uint8]]
) -> Iterator[Quantiser]:
    """Fold and fuse a graph so that it can be quantised.

    Args:
        proto: The graph in float32.
        tiles: (H, W, 3), uint8, of training images.
    """
    with tempfile.TemporaryDirectory(prefix="karyon-int8-") as name:
        source, prepared = Path(name) / "source.onnx", Path(name) / "prepared.onnx"
        # Symbolic shape inference gives up on the sizes that a Resize takes from its input.
        onnx.save(store_in_full(proto), source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield Quantiser(prepared, tiles)


def search(
    quantiser: Quantiser,
    judge: Callable[[onnx.ModelProto], VariantAccuracy],
    note: Callable[[str], None],
) -> tuple[onnx.ModelProto, list[str]]:
    """Find a quantised graph within the limits that leaves little out.

    Args:
        quantiser: Of the graph.
        judge: Measures what a graph costs.
        note: Takes a line for people at each step.

    Returns:
        The best graph found, within the limits or not, and the nodes it leaves in float32.
    """

    def attempt(ranges: Ranges, excluded: Sequence[str], what: str) -> _Attempt:
        proto = quantiser.quantise(ranges, excluded)
        accuracy = judge(proto)
        note(f"{what}, ranges by {ranges}: {describe(accuracy)}")
        return _Attempt(proto, ranges, list(excluded), excess(accuracy))

    best = attempt("minmax", [], "all quantised")
    if best.excess > 1:
        best = min(best, attempt("percentile", [], "all quantised"), key=lambda trial: trial.excess)
    pieces = np.array_split(np.array(quantiser.convolutions), GROUPS)
    groups = [piece.tolist() for piece in pieces if len(piece)]
    while best.excess > 1 and len(groups) > 1:
        trials = [
            attempt(best.ranges, [*best.excluded, *group], f"without {group[0]} to {group[-1]}")
            for group in groups
        ]
        chosen = min(range(len(trials)), key=lambda index: trials[index].excess)
        if trials[chosen].excess >= best.excess:
            break
        best = trials[chosen]
        del groups[chosen]
    while best.excess <= 1 and len(best.excluded) > 1:
        # Put back what was left out for its neighbours' sake alone.
        middle = len(best.excluded) // 2
        halves = [best.excluded[:middle], best.excluded[middle:]]
        fewer = [attempt(best.ranges, half, f"without {', '.join(half)}") for half in halves]
        narrowed = min(fewer, key=lambda trial: trial.excess)
        if narrowed.excess > 1:
            break
        best = narrowed
    return best.proto, best.excluded
