"""Graphs rewritten for processors: the same maps by less work, and nothing else is touched."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelContractError
from service.inference import session as session_module
from service.inference.contract import INPUT_NAME, OUTPUT_NAME
from service.inference.providers import CPU_PROVIDER, RuntimeOptions, is_available
from service.inference.repository import embedded_models_dir
from service.inference.rewriting import rewrite_for_processor
from service.inference.session import ModelSession
from service.segmenter import Segmenter

DIVISOR = 2
EMBEDDED = embedded_models_dir() / "efficientnetv2b0_unet" / "1.1.0"


class Graph:
    """A network of one doubling, made node by node.

    image ─ planes ─┬─ Conv, stride 2 ─ low ─ Resize ─┬─ Concat ─ Conv 3x3 ─ Relu ─ ...
                    └─ Conv 1x1 ─────── skip ─────────┘
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Any, kind: Any = np.float32) -> str:
        """Add a constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolve(
        self,
        features: str,
        output: str,
        shape: Sequence[int],
        *,
        bias: bool = True,
        halved: bool = False,
        **attributes: Any,
    ) -> str:
        """Add a convolution of random weights, (out, in, height, width)."""
        values = self._random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        kernel = self.constant(f"{output}_w", values, np.float16 if halved else np.float32)
        if halved:
            kernel = self.add("Cast", [kernel], f"{output}_full", to=TensorProto.FLOAT)
        inputs = [features, kernel]
        if bias:
            inputs.append(self.constant(f"{output}_b", self._random.normal(size=shape[0])))
        return self.add("Conv", inputs, output, **attributes)

    def begin(self, low: int, skip: int) -> None:
        """Add what makes `low` at half the size, and `skip` at the full one."""
        self.add("Cast", [INPUT_NAME], "floats", to=TensorProto.FLOAT)
        self.add("Mul", ["floats", self.constant("scale", [1 / 64, 1 / 100, 1 / 200])], "scaled")
        self.add("Add", ["scaled", self.constant("shift", [-1.0])], "shifted")
        self.add("Transpose", ["shifted"], "planes", perm=[0, 3, 1, 2])
        attributes: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
        self.convolve("planes", "low", [low, 3, 2, 2], **attributes)
        if skip:
            self.convolve("planes", "skip", [skip, 3, 1, 1], kernel_shape=[1, 1])

    def double(self, factor: float = 2, **changes: Any) -> str:
        """Add the Resize, by a constant factor."""
        attributes = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
            **changes,
        }
        scales = self.constant("scales", [1, 1, factor, factor])
        return self.add("Resize", ["low", "", scales], "doubled", **attributes)

    def finish(self, features: str, channels: int) -> bytes:
        """Add what makes maps of features, and return the file."""
        self.add("Sigmoid", [features], "probability")
        self.add("Mul", ["probability", self.constant("steps", 255.0)], "stepped")
        self.add("Transpose", ["stepped"], "last", perm=[0, 2, 3, 1])
        self.add("Cast", ["last"], OUTPUT_NAME, to=TensorProto.UINT8)
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", "H", "W", 3])],
            [
                helper.make_tensor_value_info(
                    OUTPUT_NAME, TensorProto.UINT8, ["N", "H", "W", channels]
                )
            ],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 18)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        helper.set_model_props(proto, {"kept": "as it is"})
        onnx.checker.check_model(proto, full_check=True)
        return bytes(proto.SerializeToString())


def run(content: bytes, tiles: NDArray[np.uint8], output: str = OUTPUT_NAME) -> Any:
    """Run a file without any optimisation of onnxruntime's own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=[CPU_PROVIDER])
    return session.run([output], {INPUT_NAME: tiles})[0]


def tiles_of(height_px: int, width_px: int, count: int = 1) -> NDArray[np.uint8]:
    """Noise: every pixel matters."""
    shape = (count, height_px, width_px, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def kinds(content: bytes) -> list[str]:
    """Kinds of the nodes of a file."""
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def assert_same_maps(before: bytes, after: bytes, tiles: NDArray[np.uint8]) -> None:
    """Truncation to 256 steps turns a difference in the last digit into one step."""
    expected, found = run(before, tiles).astype(int), run(after, tiles).astype(int)
    assert expected.std() > 10  # nothing is saturated, or a mistake would not show
    assert np.abs(expected - found).max() <= 1
    assert (expected != found).mean() < 0.001


@settings(deadline=None, max_examples=40)
@given(
    low=st.integers(1, 5),
    skip=st.integers(0, 4),
    width=st.integers(1, 6),
    half_height=st.integers(1, 5),
    half_width=st.integers(1, 5),
    first=st.booleans(),
    bias=st.booleans(),
    halved=st.booleans(),
    automatic=st.booleans(),
    ending=st.sampled_from(["maps", "relu", "relu, maps", "relu, 3x3"]),
)
def test_the_rewritten_graph_gives_the_same_maps(
    low: int,
    skip: int,
    width: int,
    half_height: int,
    half_width: int,
    first: bool,
    bias: bool,
    halved: bool,
    automatic: bool,
    ending: str,
) -> None:
    graph = Graph()
    graph.begin(low, skip)
    features = graph.double()
    if skip:
        joined = [features, "skip"] if first else ["skip", features]
        features = graph.add("Concat", joined, "joined", axis=1)
    padding = {"auto_pad": "SAME_UPPER"} if automatic else {"pads": [1, 1, 1, 1]}
    channels = 2 if ending == "maps" else width
    features = graph.convolve(
        features, "wide", [width, low + skip, 3, 3], bias=bias, halved=halved, **padding
    )
    if "relu" in ending:
        features = graph.add("Relu", [features], "positive")
    if "maps" in ending:
        features = graph.convolve(features, "narrow", [2, width, 1, 1])
        channels = 2
    if "3x3" in ending:
        features = graph.convolve(features, "again", [width, width, 3, 3], pads=[1, 1, 1, 1])
    before = graph.finish(features, channels)
    after = rewrite_for_processor(before, DIVISOR)
    assert after is not None
    assert "Resize" not in kinds(after)
    # Not one of the 256 steps apart: compared before they are rounded to steps.
    tiles = tiles_of(2 * half_height, 2 * half_width, count=2)
    found = [run(expose(content), tiles, "stepped") for content in (before, after)]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=0.01)
    proto = onnx.load_from_string(after)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.key, entry.value) for entry in proto.metadata_props] == [("kept", "as it is")]


def expose(content: bytes) -> bytes:
    """Make the maps before rounding an output, too."""
    proto = onnx.load_from_string(content)
    proto.graph.output.append(
        helper.make_tensor_value_info("stepped", TensorProto.FLOAT, [None, None, None, None])
    )
    return bytes(proto.SerializeToString())


def test_maps_stay_apart_by_phase_to_the_end() -> None:
    """Of the last stage only the maps are interleaved, not its features."""
    graph = Graph()
    graph.begin(4, 2)
    features = graph.add("Concat", [graph.double(), "skip"], "joined", axis=1)
    features = graph.convolve(features, "wide", [8, 6, 3, 3], pads=[1, 1, 1, 1])
    features = graph.add("Relu", [features], "positive")
    features = graph.convolve(features, "narrow", [2, 8, 1, 1])
    before = graph.finish(features, 2)
    after = rewrite_for_processor(before, DIVISOR)
    assert after is not None
    proto = onnx.load_from_string(after)
    (doubled,) = (node for node in proto.graph.node if node.op_type == "DepthToSpace")
    assert doubled.output[0] == "narrow"
    assert [node.op_type for node in proto.graph.node].count("Relu") == 4
    assert_same_maps(before, after, tiles_of(16, 24))


def _plain(graph: Graph, features: str, **changes: Any) -> bytes:
    shape = changes.pop("shape", [4, 4, 3, 3])
    padding = {} if "auto_pad" in changes else {"pads": [1, 1, 1, 1]}
    return graph.finish(graph.convolve(features, "wide", shape, **{**padding, **changes}), 4)


def _other_factor(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(3))


def _linear(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(mode="linear"))


def _other_pixels(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(nearest_mode="ceil"))


def _used_twice(graph: Graph) -> bytes:
    graph.begin(4, 4)
    doubled = graph.double()
    first = graph.convolve(doubled, "first", [4, 4, 3, 3], pads=[1, 1, 1, 1])
    return _plain(graph, graph.add("Add", [first, doubled], "both"))


def _strides(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(), strides=[2, 2])


def _dilations(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(), dilations=[2, 2], pads=[2, 2, 2, 2])


def _five_by_five(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(), shape=[4, 4, 5, 5], pads=[2, 2, 2, 2])


def _no_padding(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(), auto_pad="VALID")


def _groups(graph: Graph) -> bytes:
    graph.begin(4, 0)
    return _plain(graph, graph.double(), shape=[4, 1, 3, 3], group=4)


def _joined_below(graph: Graph) -> bytes:
    graph.begin(4, 4)
    return _plain(graph, graph.add("Concat", [graph.double(), "skip"], "joined", axis=2))


def _three_joined(graph: Graph) -> bytes:
    graph.begin(2, 1)
    joined = graph.add("Concat", [graph.double(), "skip", "skip"], "joined", axis=1)
    return _plain(graph, joined)


UNLIKE = (
    _other_factor, _linear, _other_pixels, _used_twice, _strides, _dilations, _five_by_five,
    _no_padding, _groups, _joined_below, _three_joined,
)  # fmt: skip


@pytest.mark.parametrize("make", UNLIKE)
def test_what_is_not_the_same_stays_as_it_is(make: Callable[[Graph], bytes]) -> None:
    assert rewrite_for_processor(make(Graph()), DIVISOR) is None


def test_a_size_that_happens_to_be_twice_as_large_is_no_proof() -> None:
    graph = Graph()
    graph.begin(4, 0)
    size = graph.constant("size", [1, 4, 4, 6], np.int64)
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    doubled = graph.add("Resize", ["low", "", "", size], "doubled", **attributes)
    assert rewrite_for_processor(_plain(graph, doubled), DIVISOR) is None


def test_the_embedded_model_runs_rewritten(he_pixels: NDArray[np.uint8]) -> None:
    content = (EMBEDDED / "model.onnx").read_bytes()
    after = rewrite_for_processor(content, 32)
    assert after is not None
    assert "Resize" not in kinds(after)
    session = ModelSession.load(EMBEDDED / "model.onnx", provider="cpu", threads=1)
    assert session.rewritten
    assert session.passed_over == ()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    as_exported = onnxruntime.InferenceSession(content, options, providers=[CPU_PROVIDER])
    tiles = he_pixels[None, :256, :384]
    expected = as_exported.run([OUTPUT_NAME], {INPUT_NAME: tiles})[0].astype(int)
    assert np.abs(session.run(tiles).astype(int) - expected).max() <= 1
    assert (session.run(tiles) != expected).mean() < 1e-4


@pytest.mark.skipif(not is_available("openvino"), reason="this onnxruntime has no OpenVINO")
def test_openvino_runs_it_rewritten_in_float32_alone(he_pixels: NDArray[np.uint8]) -> None:
    path = EMBEDDED / "model.onnx"
    session = ModelSession.load(path, provider="openvino", threads=1)
    assert session.rewritten
    as_exported = ModelSession.load(
        path, provider="openvino", options=RuntimeOptions(threads=1, rewrite=False)
    )
    assert not as_exported.rewritten
    tiles = he_pixels[None, :128, :192]
    expected = as_exported.run(tiles).astype(int)
    assert np.abs(session.run(tiles).astype(int) - expected).max() <= 1
    reference = ModelSession.load(path, provider="cpu", threads=1)
    variant = ModelSession.load(
        EMBEDDED / "model.int8.onnx",
        provider="openvino",
        precision="int8",
        threads=1,
        reference=reference,
    )
    assert not variant.rewritten


@pytest.mark.parametrize("variant", ["int8", "fp16"])
def test_variants_of_other_precisions_stay_as_they_are(variant: str) -> None:
    content = (EMBEDDED / f"model.{variant}.onnx").read_bytes()
    assert rewrite_for_processor(content, 32) is None


def test_a_rewritten_graph_that_gives_other_maps_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, he_pixels: NDArray[np.uint8]
) -> None:
    def spoil(content: bytes, divisor: int) -> bytes:
        after = rewrite_for_processor(content, divisor)
        assert after is not None
        proto = onnx.load_from_string(after)
        for constant in proto.graph.initializer:
            if constant.name.endswith("skip/bias"):
                values = numpy_helper.to_array(constant) + 1
                constant.CopyFrom(numpy_helper.from_array(values, constant.name))
        return bytes(proto.SerializeToString())

    monkeypatch.setattr(session_module, "rewrite_for_processor", spoil)
    session = ModelSession.load(EMBEDDED / "model.onnx", provider="cpu", threads=1)
    assert not session.rewritten
    assert "golden tile" in session.passed_over[0]
    assert Segmenter(session).segment(he_pixels[:128, :128]).count > 0


def test_a_rewritten_graph_that_does_not_load_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
) -> None:
    monkeypatch.setattr(session_module, "rewrite_for_processor", lambda *_: b"nonsense")
    session = ModelSession.load(tiny_model_path, provider="cpu", threads=1)
    assert not session.rewritten
    assert "cannot load" in session.passed_over[0]


def test_a_bad_file_is_refused_whatever_its_graph_is_rewritten_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session_module, "rewrite_for_processor", lambda content, _: content)
    (tmp_path / "model.onnx").write_bytes((EMBEDDED / "model.onnx").read_bytes())
    with np.load(EMBEDDED / "golden.npz") as golden:
        np.savez(tmp_path / "golden.npz", tile=golden["tile"], maps=255 - golden["maps"])
    with pytest.raises(ModelContractError, match="golden"):
        ModelSession.load(tmp_path / "model.onnx", provider="cpu", threads=1)
