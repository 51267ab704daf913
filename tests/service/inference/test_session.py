"""Sessions over real ONNX files: what loads, what is refused, what runs."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.errors import ModelContractError, ProviderError
from service.inference.installation import check_distributions
from service.inference.providers import CPU_PROVIDER, CUDA_PROVIDER
from service.inference.session import ModelSession

MakeModel = Callable[..., Path]

HAS_CUDA_WHEEL = CUDA_PROVIDER in onnxruntime.get_available_providers()


def change_graph(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Rewrite a model file after `change` has edited it."""
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_session_reports_what_it_loaded(tiny_model_path: Path) -> None:
    session = ModelSession.load(tiny_model_path, provider="cpu", threads=1)
    assert session.provider == CPU_PROVIDER
    assert session.path == tiny_model_path
    assert session.digest == hashlib.sha256(tiny_model_path.read_bytes()).hexdigest()
    assert (session.contract.name, session.contract.version) == ("tiny", "1.1.0")


@pytest.mark.skipif(HAS_CUDA_WHEEL, reason="this onnxruntime has a CUDA provider")
def test_auto_is_the_cpu_where_there_is_no_gpu(tiny_model_path: Path) -> None:
    assert ModelSession.load(tiny_model_path, provider="auto").provider == CPU_PROVIDER


@pytest.mark.skipif(HAS_CUDA_WHEEL, reason="this onnxruntime has a CUDA provider")
def test_cuda_without_its_wheel_is_refused(tiny_model_path: Path) -> None:
    with pytest.raises(ProviderError, match="install the extra `gpu`"):
        ModelSession.load(tiny_model_path, provider="cuda")


def test_silent_fall_back_to_the_cpu_is_refused(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime-gpu does on a machine without a working GPU: it lists CUDA, runs on CPU."""
    real = onnxruntime.InferenceSession

    def cpu_whatever_was_asked_for(content: bytes, options: Any, providers: Any) -> Any:
        assert providers
        return real(content, options, providers=[CPU_PROVIDER])

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", cpu_whatever_was_asked_for)
    with pytest.raises(ProviderError, match="fell back to the CPU"):
        ModelSession.load(tiny_model_path, provider="cuda")
    assert ModelSession.load(tiny_model_path, provider="auto").provider == CPU_PROVIDER


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA_WHEEL, reason="needs onnxruntime-gpu")
def test_cuda_runs_and_agrees_with_the_cpu(
    tiny_model_path: Path, he_pixels: NDArray[np.uint8]
) -> None:
    on_gpu = ModelSession.load(tiny_model_path, provider="cuda")
    assert on_gpu.provider == CUDA_PROVIDER
    on_cpu = ModelSession.load(tiny_model_path, provider="cpu")
    difference = on_gpu.run(he_pixels[None]).astype(int) - on_cpu.run(he_pixels[None])
    assert np.abs(difference).max() <= 1


def test_run_turns_dark_into_nuclei(tiny_model_path: Path, tiny_one_channel_path: Path) -> None:
    pixels = np.full((2, 64, 96, 3), 230, dtype=np.uint8)
    pixels[1, 20:40, 30:50] = (90, 60, 140)
    for path, channels in ((tiny_model_path, 2), (tiny_one_channel_path, 1)):
        maps = ModelSession.load(path, provider="cpu").run(pixels)
        assert maps.shape == (2, 64, 96, channels)
        assert maps.dtype == np.uint8
        assert maps[0].max() == 0
        assert maps[1, 30, 40].min() > 200
        assert maps[1, 5, 5].max() == 0


def test_batch_of_one_equals_batch_of_eight(
    tiny_model_path: Path, he_pixels: NDArray[np.uint8]
) -> None:
    session = ModelSession.load(tiny_model_path, provider="cpu")
    tiles = np.stack([np.roll(he_pixels[:128, :128], 16 * shift, axis=0) for shift in range(8)])
    together = session.run(tiles)
    one_by_one = np.concatenate([session.run(tile[None]) for tile in tiles])
    assert np.array_equal(together, one_by_one)


def test_warm_up_runs(tiny_model_path: Path) -> None:
    ModelSession.load(tiny_model_path, provider="cpu").warm_up()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 32, 32, 3), np.float32),
        ((32, 32, 3), np.uint8),
        ((1, 32, 32, 4), np.uint8),
        ((1, 33, 32, 3), np.uint8),
        ((0, 32, 32, 3), np.uint8),
    ],
)
def test_wrong_tiles_are_refused(tiny_model_path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    session = ModelSession.load(tiny_model_path, provider="cpu")
    with pytest.raises(ValueError, match="tiles of shape"):
        session.run(np.zeros(shape, dtype=dtype))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelContractError, match=r"x/1\.0\.0/model\.onnx: cannot be read"
    ) as caught:
        ModelSession.load(tmp_path / "x" / "1.0.0" / "model.onnx")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelContractError, match=r"model\.onnx: onnxruntime cannot load it"):
        ModelSession.load(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_file_is_refused(tiny_model_path: Path, tmp_path: Path, share: float) -> None:
    content = tiny_model_path.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelContractError):
        ModelSession.load(path)


def test_foreign_onnx_file_is_refused(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    path = tiny_model_factory(tmp_path / "model.onnx", metadata={})
    with pytest.raises(ModelContractError, match=r"no 'karyon\.contract' metadata"):
        ModelSession.load(path)


def test_unknown_contract_version_is_refused(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    metadata = {"karyon.contract": '{"contract_version": 99}'}
    path = tiny_model_factory(tmp_path / "model.onnx", metadata=metadata)
    with pytest.raises(ModelContractError, match="contract version 99 is unknown"):
        ModelSession.load(path)


def test_channels_that_the_graph_lacks_are_refused(
    tiny_model_factory: MakeModel, tmp_path: Path
) -> None:
    path = tiny_model_factory(tmp_path / "model.onnx", graph_channels=1)
    with pytest.raises(ModelContractError, match=r"output 'maps' has shape .* not \(N, H, W, 2\)"):
        ModelSession.load(path)


def test_second_input_is_refused(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    """What Keras' Normalization layer leaves behind when it is exported naively."""

    def add_input(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [3]))

    path = change_graph(tiny_model_factory(tmp_path / "model.onnx"), add_input)
    with pytest.raises(ModelContractError, match=r"inputs are \['image', 'mean'\]"):
        ModelSession.load(path)


def test_float_output_is_refused(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    def make_float(model: onnx.ModelProto) -> None:
        model.graph.node[-1].attribute[0].i = TensorProto.FLOAT
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT

    path = change_graph(tiny_model_factory(tmp_path / "model.onnx"), make_float)
    with pytest.raises(ModelContractError, match=r"output 'maps' is tensor\(float\)"):
        ModelSession.load(path)


def test_fixed_size_is_refused(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    def fix_height(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 256

    path = change_graph(tiny_model_factory(tmp_path / "model.onnx"), fix_height)
    with pytest.raises(ModelContractError, match="N, H and W must be dynamic"):
        ModelSession.load(path)


def test_graph_that_answers_in_another_size_is_refused(
    tiny_model_factory: MakeModel, tmp_path: Path
) -> None:
    """The declared shape may promise anything; the canary sees what comes out."""

    def halve(model: onnx.ModelProto) -> None:
        pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
        strides = next(item for item in pool.attribute if item.name == "strides")
        strides.ints[:] = [2, 2]

    path = change_graph(tiny_model_factory(tmp_path / "model.onnx"), halve)
    with pytest.raises(ModelContractError, match=r"turns \(2, 32, 64, 3\) into \(2, 16, 32, 2\)"):
        ModelSession.load(path)


def test_bad_range_is_refused_from_the_file(
    tiny_model_factory: MakeModel, contract_document: Callable[..., Any], tmp_path: Path
) -> None:
    document = contract_document()
    metadata = {"karyon.contract": json.dumps({**document, "version": "one"})}
    path = tiny_model_factory(tmp_path / "model.onnx", metadata=metadata)
    with pytest.raises(ModelContractError, match="the contract is invalid: version"):
        ModelSession.load(path)


def test_two_onnxruntime_distributions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    check_distributions()
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "1.30.0" if name == "onnxruntime-gpu" else real(name),
    )
    with pytest.raises(ProviderError, match=r"onnxruntime-gpu 1\.30\.0.* break each other"):
        check_distributions()


def test_a_file_in_the_form_of_onnxruntime_runs_as_it_is(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    """`onnx` cannot read it, so that nothing is rewritten; that is no reason to refuse it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(tiny_model_path), options, providers=[CPU_PROVIDER])
    session = ModelSession.load(tmp_path / "model.onnx", provider="cpu", threads=1)
    assert not session.rewritten
    assert session.passed_over[0].startswith("the graph cannot be rewritten for processors: ")
