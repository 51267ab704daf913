"""Rewrites a graph so that a processor does less for the same maps (docs/adr/0011).

Whatever doubles its features by nearest neighbour and then convolves them by 3x3 sees only 2x2
different values in a window, in one of four arrangements, one for each phase of the output:

    low ── Resize x2 ─┐                 low ─┬─ Conv 2x2, phase 0,0 ─┐
                      ├─ Conv 3x3            ├─ Conv 2x2, phase 0,1 ─┼─ interleave ─┐
    skip ─────────────┘                      ├─ Conv 2x2, phase 1,0 ─┤              ├─ Add
                                             └─ Conv 2x2, phase 1,1 ─┘   skip ─ Conv 3x3

Four products take the place of nine, and neither the enlarged features nor their concatenation is
ever written to memory (Shi et al., Is the deconvolution layer the same as a convolutional layer?,
2016, show the same equivalence). Where only 1x1 convolutions follow, the phases stay apart to the
end, and no more than the maps are interleaved. Sums come in another order, so that float32 differs
in its last digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.inference.contract import INPUT_NAME
from service.inference.onnx_reading import attribute, float_constants, shapes_for

_PREFIX: Final = "karyon/"
_PHASES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
_SAME: Final = (b"SAME_UPPER", b"SAME_LOWER")


def rewrite_for_processor(content: bytes, divisor: int) -> bytes | None:
    """Rewrite what can be rewritten; everything else stays as it is.

    Args:
        content: An ONNX file that keeps the model contract.
        divisor: The contract's; sides of all tiles are multiples of it.

    Returns:
        An ONNX file with the same inputs, outputs and metadata; None where there is nothing to
        rewrite.
    """
    proto = onnx.load_from_string(content)
    graph = _Graph(proto, divisor)
    stages = [stage for stage in map(graph.stage, list(proto.graph.node)) if stage is not None]
    if not stages:
        return None
    for number, stage in enumerate(stages):
        graph.replace(stage, f"{_PREFIX}stage{number}")
    graph.scale_input_by_channel()
    graph.prune()
    return bytes(proto.SerializeToString())


@dataclass(frozen=True, slots=True)
class _Stage:
    """Features that are doubled, joined to others and convolved by 3x3.

    Attributes:
        low: The features before they are doubled.
        skip: The others; empty where there are none.
        low_kernel: Weights of the doubled ones, (out, in, 3, 3).
        skip_kernel: Weights of the others, likewise.
        bias: (out,).
        convolution: The node that convolves.
        pointwise: Relu and 1x1 convolutions that follow one another behind it, up to the last
            convolution; empty unless that one gives fewer channels than it takes.
    """

    low: str
    skip: str
    low_kernel: NDArray[np.float32]
    skip_kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    convolution: onnx.NodeProto
    pointwise: tuple[onnx.NodeProto, ...]


class _Graph:
    """A graph that is being rewritten in place."""

    def __init__(self, proto: onnx.ModelProto, divisor: int) -> None:
        self._graph = proto.graph
        self._constants = float_constants(proto.graph)
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._results = {value.name for value in proto.graph.output}
        # What is twice as large at two sizes, sides unequal, is so at all of them.
        self._shapes = [
            shapes_for(proto, divisor * 2, divisor * 3),
            shapes_for(proto, divisor, divisor),
        ]

    def stage(self, resize: onnx.NodeProto) -> _Stage | None:
        """Return what begins at a node, None where it cannot be rewritten."""
        if resize.op_type != "Resize" or not self._doubles(resize):
            return None
        low, joined = resize.input[0], self._only_user(resize.output[0])
        channels = self._shapes[0][low][1]
        skip, first, convolution = "", True, joined
        if joined is not None and joined.op_type == "Concat":
            if len(joined.input) != 2 or attribute(joined, "axis", 1) != 1:
                return None
            first = joined.input[0] == resize.output[0]
            skip = joined.input[1 if first else 0]
            convolution = self._only_user(joined.output[0])
        if convolution is None or not self._convolves(convolution, 3):
            return None
        kernel, bias = self._weights(convolution)
        if not first:
            kernel = np.roll(kernel, channels, axis=1)
        return _Stage(
            low=low,
            skip=skip,
            low_kernel=kernel[:, :channels],
            skip_kernel=kernel[:, channels:],
            bias=bias,
            convolution=convolution,
            pointwise=self._pointwise(convolution),
        )

    def replace(self, stage: _Stage, name: str) -> None:
        """Put convolutions of phases in the place of a stage."""
        made: list[onnx.NodeProto] = []
        phases = []
        last = stage.pointwise[-1] if stage.pointwise else stage.convolution
        for row, column in _PHASES:
            phase = f"{name}/{row}{column}"
            pads = [1 - row, 1 - column, row, column]
            kernel = self._add(f"{phase}/kernel", _seen_by_phase(stage.low_kernel, row, column))
            inputs = [stage.low, kernel]
            if not stage.skip:
                inputs.append(self._add(f"{phase}/bias", stage.bias))
            features = f"{phase}/features"
            made.append(_convolution(inputs, features, [2, 2], pads))
            if stage.pointwise:
                if stage.skip:
                    features = self._add_skip_of_phase(stage, phase, features, pads, made)
                features = self._repeat(stage.pointwise, features, phase, made)
            phases.append(features)
        joined = f"{name}/phases"
        made.append(helper.make_node("Concat", phases, [joined], name=joined, axis=1))
        apart = stage.skip and not stage.pointwise
        doubled = f"{name}/doubled" if apart else last.output[0]
        made.append(
            helper.make_node(
                "DepthToSpace", [joined], [doubled], name=f"{name}/doubled", blocksize=2, mode="DCR"
            )
        )
        if apart:
            inputs = [stage.skip, *self._skip_weights(stage, name)]
            made.append(_convolution(inputs, f"{name}/skip", [3, 3], [1, 1, 1, 1]))
            made.append(
                helper.make_node(
                    "Add", [doubled, f"{name}/skip"], [last.output[0]], name=f"{name}/sum"
                )
            )
        self._put(made, last)

    def scale_input_by_channel(self) -> None:
        """Let pixels become features once, plane by plane, and scale each plane as a whole.

        As exported they are scaled by constants of three values along the last axis, which
        onnxruntime multiplies three at a time.
        """
        cast = self._only_user(INPUT_NAME)
        if cast is None or cast.op_type != "Cast":
            return
        branches = [self._scaling(node) for node in self._users.get(cast.output[0], [])]
        found = [branch for branch in branches if branch is not None]
        if not found:
            return
        planes, floats = f"{_PREFIX}planes", f"{_PREFIX}floats"
        made = [
            helper.make_node("Transpose", [INPUT_NAME], [planes], name=planes, perm=[0, 3, 1, 2]),
            helper.make_node("Cast", [planes], [floats], name=floats, to=onnx.TensorProto.FLOAT),
        ]
        for number, (transpose, scale, offset) in enumerate(found):
            name = f"{_PREFIX}input{number}"
            factors, offsets = self._add(f"{name}/scale", scale), self._add(f"{name}/shift", offset)
            made.append(helper.make_node("Mul", [floats, factors], [f"{name}/m"], name=f"{name}/m"))
            made.append(
                helper.make_node(
                    "Add", [f"{name}/m", offsets], [transpose.output[0]], name=f"{name}/a"
                )
            )
            self._graph.node.remove(transpose)
        for place, node in enumerate(made):
            self._graph.node.insert(place, node)

    def prune(self) -> None:
        """Remove nodes and constants that nothing needs any more."""
        nodes, constants = self._graph.node, self._graph.initializer
        needed = set(self._results)
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        weights = [constant for constant in constants if constant.name in needed]
        del nodes[:]
        nodes.extend(reversed(kept))
        del constants[:]
        constants.extend(weights)

    def _doubles(self, resize: onnx.NodeProto) -> bool:
        """Tell whether a Resize repeats each pixel of NCHW features as 2x2 pixels."""
        same_pixels = (
            attribute(resize, "mode", b"nearest") == b"nearest"
            and attribute(resize, "coordinate_transformation_mode", b"half_pixel") == b"asymmetric"
            and attribute(resize, "nearest_mode", b"round_prefer_floor") == b"floor"
        )
        if not same_pixels:
            return False
        for shapes in self._shapes:
            before, after = shapes.get(resize.input[0]), shapes.get(resize.output[0])
            if before is None or after is None or len(before) != 4 or 0 in before:
                return False
            if after != (*before[:2], before[2] * 2, before[3] * 2):
                return False
        return True

    def _convolves(self, node: onnx.NodeProto, side: int) -> bool:
        """Tell whether a node is a plain convolution of known weights that keeps the size."""
        if node.op_type != "Conv" or any(name not in self._constants for name in node.input[1:]):
            return False
        pads, half = list(attribute(node, "pads", [0] * 4)), side // 2
        padding = attribute(node, "auto_pad", b"NOTSET")
        return (
            self._constants[node.input[1]].shape[2:] == (side, side)
            and list(attribute(node, "strides", [1, 1])) == [1, 1]
            and list(attribute(node, "dilations", [1, 1])) == [1, 1]
            and attribute(node, "group", 1) == 1
            and (padding in _SAME or (padding == b"NOTSET" and pads == [half] * 4))
        )

    def _pointwise(self, convolution: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """Return `_Stage.pointwise`."""
        chain: list[onnx.NodeProto] = []
        length = 0
        node = self._only_user(convolution.output[0])
        while node is not None and (node.op_type == "Relu" or self._convolves(node, 1)):
            chain.append(node)
            if node.op_type == "Conv":
                length = len(chain)
            node = self._only_user(node.output[0])
        if not length:
            return ()
        before, after = (self._weights(node)[0].shape for node in (convolution, chain[length - 1]))
        return tuple(chain[:length]) if after[0] < before[0] else ()

    def _only_user(self, name: str) -> onnx.NodeProto | None:
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name not in self._results else None

    def _weights(self, node: onnx.NodeProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return kernel and bias of a convolution."""
        kernel = self._constants[node.input[1]]
        if len(node.input) > 2:
            return kernel, self._constants[node.input[2]]
        return kernel, np.zeros(len(kernel), dtype=np.float32)

    def _add(self, name: str, values: NDArray[np.float32]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _skip_weights(self, stage: _Stage, name: str) -> list[str]:
        return [
            self._add(f"{name}/skip/kernel", stage.skip_kernel),
            self._add(f"{name}/skip/bias", stage.bias),
        ]

    def _add_skip_of_phase(
        self,
        stage: _Stage,
        phase: str,
        features: str,
        pads: Sequence[int],
        made: list[onnx.NodeProto],
    ) -> str:
        """Add what the other features give at the pixels of one phase."""
        inputs = [stage.skip, *self._skip_weights(stage, phase)]
        made.append(_convolution(inputs, f"{phase}/skip", [3, 3], pads, strides=[2, 2]))
        total = f"{phase}/sum"
        made.append(helper.make_node("Add", [features, f"{phase}/skip"], [total], name=total))
        return total

    @staticmethod
    def _repeat(
        pointwise: Sequence[onnx.NodeProto], features: str, phase: str, made: list[onnx.NodeProto]
    ) -> str:
        """Do for one phase what was done for all pixels."""
        for number, node in enumerate(pointwise):
            own = onnx.NodeProto()
            own.CopyFrom(node)
            own.name = own.output[0] = f"{phase}/pointwise{number}"
            own.input[0] = features
            made.append(own)
            features = own.output[0]
        return features

    def _put(self, made: Sequence[onnx.NodeProto], old: onnx.NodeProto) -> None:
        """Put nodes in the place of one that they do the work of."""
        nodes = self._graph.node
        place = next(i for i, node in enumerate(nodes) if node.output[0] == old.output[0])
        del nodes[place]
        for offset, node in enumerate(made):
            nodes.insert(place + offset, node)

    def _scaling(
        self, node: onnx.NodeProto
    ) -> tuple[onnx.NodeProto, NDArray[np.float32], NDArray[np.float32]] | None:
        """Follow constants that scale pixels to the Transpose behind them.

        Returns:
            The Transpose, and factor and offset of each channel, (1, 3, 1, 1); None where anything
            else is done to the pixels.
        """
        scale, offset = np.ones(3), np.zeros(3)
        current: onnx.NodeProto | None = node
        while current is not None and current.op_type in ("Mul", "Add", "Sub", "Div"):
            values = self._constants.get(current.input[1])
            if values is None or values.size not in (1, 3) or values.shape[-1:] not in ((3,), ()):
                return None
            by_channel = values.astype(np.float64).ravel()
            match current.op_type:
                case "Mul":
                    scale, offset = scale * by_channel, offset * by_channel
                case "Div":
                    scale, offset = scale / by_channel, offset / by_channel
                case "Add":
                    offset = offset + by_channel
                case _:
                    offset = offset - by_channel
            current = self._only_user(current.output[0])
        if current is None or current.op_type != "Transpose" or current is node:
            return None
        if list(attribute(current, "perm", [])) != [0, 3, 1, 2]:
            return None
        planes = (1, 3, 1, 1)
        return (
            current,
            scale.astype(np.float32).reshape(planes),
            offset.astype(np.float32).reshape(planes),
        )


def _seen_by_phase(kernel: NDArray[np.float32], row: int, column: int) -> NDArray[np.float32]:
    """Add up the weights that fall on the same pixel before doubling.

    Of three neighbouring rows of doubled pixels, two are the same: in the upper phase the second
    and third, in the lower one the first and second.

    Args:
        kernel: (out, in, 3, 3).
        row: 0 for the upper phase, 1 for the lower one.
        column: 0 for the left phase, 1 for the right one.

    Returns:
        (out, in, 2, 2).
    """
    for axis, phase in ((2, row), (3, column)):
        first, second, third = np.split(kernel, 3, axis)
        pair = (first, second + third) if phase == 0 else (first + second, third)
        kernel = np.concatenate(pair, axis)
    return kernel


def _convolution(
    inputs: Sequence[str],
    output: str,
    side: Sequence[int],
    pads: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", inputs, [output], name=output, kernel_shape=side, pads=pads, strides=strides
    )
