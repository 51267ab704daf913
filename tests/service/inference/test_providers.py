"""Options of the execution providers, and the proof that a provider runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.errors import ModelContractError, ProviderError
from service.inference import providers
from service.inference.contract import InputSpec
from service.inference.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    OPENVINO_PROVIDER,
    TENSORRT_PROVIDER,
    RuntimeOptions,
    cuda_options,
    is_available,
    open_provider,
    openvino_options,
    provider_chain,
    tensorrt_options,
)
from service.inference.session import ModelSession

needs_openvino = pytest.mark.skipif(
    not is_available("openvino"), reason="needs onnxruntime-openvino"
)
SPEC = InputSpec(
    name="image",
    dtype="uint8",
    layout="NHWC",
    colour="RGB",
    mpp=0.25,
    divisor=32,
    tile_px=512,
    halo_px=64,
)


def test_openvino_is_told_precision_and_threads_as_a_json_string() -> None:
    chosen = openvino_options("bf16", RuntimeOptions(threads=3))
    config = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": "3",
        "NUM_STREAMS": "1",
    }
    assert json.loads(chosen["load_config"]) == {"CPU": config}
    assert chosen["device_type"] == "CPU"
    for precision in ("fp32", "int8"):
        config = json.loads(openvino_options(precision, RuntimeOptions())["load_config"])["CPU"]
        assert config["INFERENCE_PRECISION_HINT"] == "f32"
        assert int(config["INFERENCE_NUM_THREADS"]) >= 1


def test_openvino_is_told_how_many_runs_come_at_once() -> None:
    chosen = openvino_options("bf16", RuntimeOptions(threads=2, streams=3))
    config = json.loads(chosen["load_config"])["CPU"]
    assert (config["NUM_STREAMS"], config["INFERENCE_NUM_THREADS"]) == ("3", "6")


@needs_openvino
def test_openvino_with_streams_really_runs_and_answers_alike(tiny_model_path: Path) -> None:
    tiles = np.random.default_rng(1).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    answers = [
        ModelSession.load(
            tiny_model_path, provider="openvino", options=RuntimeOptions(threads=1, streams=streams)
        ).run(tiles)
        for streams in (1, 2)
    ]
    np.testing.assert_array_equal(*answers)


def test_cuda_is_told_its_bounds() -> None:
    chosen = cuda_options(RuntimeOptions())
    assert chosen["cudnn_conv_algo_search"] == "HEURISTIC"
    assert chosen["arena_extend_strategy"] == "kSameAsRequested"
    assert chosen["use_tf32"] == "1"
    assert "gpu_mem_limit" not in chosen
    chosen = cuda_options(
        RuntimeOptions(device_id=2, gpu_mem_limit_bytes=3_000_000_000, use_tf32=False)
    )
    assert (chosen["device_id"], chosen["gpu_mem_limit"]) == ("2", "3000000000")
    assert chosen["use_tf32"] == "0"


def test_tensorrt_has_one_profile_for_all_that_is_sent_and_caches_what_it_builds() -> None:
    chosen = tensorrt_options("fp16", SPEC, RuntimeOptions(max_batch_tiles=8))
    assert chosen["trt_profile_min_shapes"] == "image:1x32x32x3"
    assert chosen["trt_profile_max_shapes"] == "image:8x512x512x3"
    assert chosen["trt_fp16_enable"] == "1"
    assert "trt_engine_cache_enable" not in chosen
    cached = tensorrt_options("fp32", SPEC, RuntimeOptions(engine_cache_dir=Path("engines")))
    assert cached["trt_fp16_enable"] == "0"
    assert cached["trt_engine_cache_path"] == cached["trt_timing_cache_path"] == "engines"


def test_the_chain_begins_with_what_was_asked_for() -> None:
    def chain(provider: providers.RealProvider) -> list[str]:
        items = provider_chain(provider, "fp32", SPEC, RuntimeOptions())
        return [item if isinstance(item, str) else item[0] for item in items]

    assert chain("cpu") == [CPU_PROVIDER]
    assert chain("openvino") == [OPENVINO_PROVIDER, CPU_PROVIDER]
    assert chain("cuda") == [CUDA_PROVIDER, CPU_PROVIDER]
    assert chain("tensorrt") == [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]


@pytest.mark.parametrize(
    ("provider", "remedy"),
    [("openvino", "the extra `cpu`"), ("cuda", "the extra `gpu`"), ("tensorrt", "TensorRT 10")],
)
def test_a_provider_that_is_not_built_in_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, provider: providers.RealProvider, remedy: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU_PROVIDER])
    with pytest.raises(ProviderError, match=remedy):
        open_provider(b"", provider, "fp32", SPEC, RuntimeOptions())


@pytest.mark.parametrize("provider", ["openvino", "cuda", "tensorrt"])
def test_a_provider_that_falls_back_in_silence_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path, provider: providers.RealProvider
) -> None:
    """The session is real and reports the CPU, as onnxruntime does where a library is missing."""
    real = onnxruntime.InferenceSession

    def cpu_whatever_was_asked_for(content: bytes, options: Any, providers: Any) -> Any:
        assert len(providers) > 1
        return real(content, options, providers=[CPU_PROVIDER])

    listed = list(providers.PROVIDER_NAMES.values())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", cpu_whatever_was_asked_for)
    monkeypatch.setattr(
        providers, "cuda_shortcomings", lambda *, tensorrt: ["cuDNN 9"] if not tensorrt else []
    )
    reason = {
        "openvino": "its options or its libraries were refused",
        "cuda": "missing: cuDNN 9",
        "tensorrt": "CUDA_VISIBLE_DEVICES",
    }[provider]
    with pytest.raises(ProviderError, match=f"fell back to the CPU; .*{reason}"):
        open_provider(tiny_model_path.read_bytes(), provider, "fp32", SPEC, RuntimeOptions())


def test_a_file_that_does_not_load_is_no_fault_of_the_provider() -> None:
    with pytest.raises(ModelContractError, match="cannot load it"):
        open_provider(b"no model", "cpu", "fp32", SPEC, RuntimeOptions())


@needs_openvino
def test_openvino_runs_and_agrees_with_the_default_provider(
    tiny_model_path: Path, he_pixels: NDArray[np.uint8]
) -> None:
    tiles = np.stack([he_pixels[:256, :256], he_pixels[256:, 256:]])
    ours = ModelSession.load(tiny_model_path, provider="openvino", threads=1)
    assert (ours.provider, ours.precision) == (OPENVINO_PROVIDER, "fp32")
    assert ours.golden is not None
    assert ours.golden.source == "reference"
    theirs = ModelSession.load(tiny_model_path, provider="cpu", threads=1)
    difference = ours.run(tiles).astype(int) - theirs.run(tiles)
    assert np.abs(difference).max() <= 1


@needs_openvino
@pytest.mark.parametrize("load_config", ["/no/such/file.json", '{"CPU": {"NO_SUCH_HINT": "1"}}'])
def test_openvino_options_that_are_refused_do_not_become_the_default_provider(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path, load_config: str
) -> None:
    monkeypatch.setattr(
        providers,
        "openvino_options",
        lambda *_: {"device_type": "CPU", "load_config": load_config},
    )
    with pytest.raises(ProviderError, match="OpenVINOExecutionProvider"):
        ModelSession.load(tiny_model_path, provider="openvino", threads=1)
