"""Execution providers of onnxruntime: their options, and proof that they really run.

onnxruntime falls back to its default provider with a warning at most, for a missing library, a
missing driver or a misspelt option. What was asked for is therefore read back from the session.
"""

import functools
import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime

from service.errors import ModelContractError, ProviderError
from service.inference.contract import INPUT_NAME, InputSpec
from service.inference.installation import cuda_shortcomings, preload_cuda_libraries
from service.inference.precision import Precision
from service.inference.processors import usable_processors

Provider = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
RealProvider = Literal["cpu", "openvino", "cuda", "tensorrt"]

CPU_PROVIDER: Final = "CPUExecutionProvider"
OPENVINO_PROVIDER: Final = "OpenVINOExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_PROVIDER: Final = "TensorrtExecutionProvider"

PROVIDER_NAMES: Final[dict[RealProvider, str]] = {
    "cpu": CPU_PROVIDER,
    "openvino": OPENVINO_PROVIDER,
    "cuda": CUDA_PROVIDER,
    "tensorrt": TENSORRT_PROVIDER,
}


def provider_named(name: str) -> Provider:
    """Return the setting that runs a provider, by onnxruntime's name of it; `auto` for others."""
    return next((key for key, value in PROVIDER_NAMES.items() if value == name), "auto")


ON_NVIDIA: Final = frozenset({CUDA_PROVIDER, TENSORRT_PROVIDER})
"""Providers with memory of their own, and on which a batch is faster than its tiles one by one."""

_FATAL_ONLY: Final = 4
_ARENA_LOCK: Final = threading.Lock()
# Two runs of a 512x512 tile at once fit. It is address space: memory only as far as it is used.
_ARENA_PIECE_BYTES: Final = 256 << 20
_INSTALL: Final[dict[RealProvider, str]] = {
    "openvino": "install the extra `cpu` (onnxruntime-openvino, Linux on x86-64)",
    "cuda": "install the extra `gpu` instead of `cpu`",
    "tensorrt": "install the extra `gpu` instead of `cpu`, and TensorRT 10",
}


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How sessions use the machine.

    Attributes:
        threads: Threads of one run on the CPU; 0 takes as many as there are processors for this
            process.
        streams: Runs at once on the CPU; OpenVINO runs one after the other unless it is told.
        alone_threads: Threads of a run on the CPU that goes alone, on a session of its own; 0 for
            no such session.
        alone_on_openvino: Whether OpenVINO has such a session, too; its memory is then needed
            twice, weights and runs. Without, a run there has `alone_threads` threads, one at once.
        device_id: Number of the GPU.
        gpu_mem_limit_bytes: Most bytes that onnxruntime's arena takes on the GPU; None for all.
        use_tf32: Let the GPU multiply float32 as TF32 (10 bits of mantissa): faster, and not the
            same on every card.
        engine_cache_dir: Where TensorRT keeps built engines and timings; None keeps none, and the
            engine is built anew at each start.
        max_batch_tiles: Most tiles in one run; TensorRT builds its engine for them.
        rewrite: Whether the default provider runs the graph that `service.inference.rewriting`
            makes of a file's own; only benchmarks compare.
    """

    threads: int = 0
    streams: int = 1
    alone_threads: int = 0
    alone_on_openvino: bool = False
    device_id: int = 0
    gpu_mem_limit_bytes: int | None = None
    use_tf32: bool = True
    engine_cache_dir: Path | None = None
    max_batch_tiles: int = 4
    rewrite: bool = True

    def on(self, provider: RealProvider) -> "RuntimeOptions":
        """Return the options of a provider: only some share out processors run by run."""
        if not self.alone_threads or provider == "cpu":
            return self
        if provider == "openvino" and self.alone_on_openvino:
            return self
        return replace(self, threads=self.alone_threads, streams=1, alone_threads=0)


DEFAULT_OPTIONS: Final = RuntimeOptions()


def is_available(provider: RealProvider) -> bool:
    """Tell whether the installed onnxruntime was built with a provider; it need not run."""
    return PROVIDER_NAMES[provider] in onnxruntime.get_available_providers()


def open_provider(
    content: bytes,
    provider: RealProvider,
    precision: Precision,
    spec: InputSpec,
    options: RuntimeOptions,
) -> Any:
    """Create a session that was seen to run on a provider.

    Args:
        content: The ONNX file.
        provider: The provider.
        precision: What it shall compute in; the file suits it.
        spec: The contract's input.
        options: How to use the machine.

    Returns:
        The `onnxruntime.InferenceSession`.

    Raises:
        ProviderError: The provider is not there or does not run; says what is missing.
        ModelContractError: The file does not load on the CPU.
    """
    if provider == "cpu":
        return create_cpu_session(content, options)
    name = PROVIDER_NAMES[provider]
    if not is_available(provider):
        word = {"openvino": "OpenVINO", "cuda": "CUDA", "tensorrt": "TensorRT"}[provider]
        raise ProviderError(f"this onnxruntime has no {word} provider; {_INSTALL[provider]}")
    if name in ON_NVIDIA:
        preload_cuda_libraries()
    chain = provider_chain(provider, precision, spec, options)
    try:
        session = create_session(content, chain, options.threads)
    except ModelContractError as error:
        raise ProviderError(f"{name} does not start: {error}{_missing(provider)}") from error
    if session.get_providers()[0] != name:
        raise ProviderError(
            f"{name} was asked for and onnxruntime fell back to the CPU{_missing(provider)}"
        )
    return session


def provider_chain(
    provider: RealProvider, precision: Precision, spec: InputSpec, options: RuntimeOptions
) -> list[Any]:
    """Return onnxruntime's `providers` argument: the provider with options, then its fallbacks."""
    match provider:
        case "cpu":
            return [CPU_PROVIDER]
        case "openvino":
            return [(OPENVINO_PROVIDER, openvino_options(precision, options)), CPU_PROVIDER]
        case "cuda":
            return [(CUDA_PROVIDER, cuda_options(options)), CPU_PROVIDER]
        case "tensorrt":
            return [
                (TENSORRT_PROVIDER, tensorrt_options(precision, spec, options)),
                (CUDA_PROVIDER, cuda_options(options)),
                CPU_PROVIDER,
            ]


def openvino_options(precision: Precision, options: RuntimeOptions) -> dict[str, str]:
    """Return the options of the OpenVINO provider.

    An int8 file says itself which parts are 8-bit; the rest of it stays in float32. Without the
    hint OpenVINO would choose bf16 on processors that have it.
    """
    hint = "bf16" if precision == "bf16" else "f32"
    threads = options.threads or usable_processors()
    config = {
        "CPU": {
            "INFERENCE_PRECISION_HINT": hint,
            # Of all streams together.
            "INFERENCE_NUM_THREADS": str(threads * options.streams),
            "NUM_STREAMS": str(options.streams),
        }
    }
    # JSON as a string: a path is not read, and the default provider would run instead.
    return {"device_type": "CPU", "load_config": json.dumps(config)}


def cuda_options(options: RuntimeOptions) -> dict[str, str]:
    """Return the options of the CUDA provider."""
    chosen = {
        "device_id": str(options.device_id),
        # The exhaustive search costs half a second for each new shape, the heuristic 2 ms.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Grow by what is asked for, not by powers of two that are never given back.
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": str(int(options.use_tf32)),
    }
    if options.gpu_mem_limit_bytes is not None:
        chosen["gpu_mem_limit"] = str(options.gpu_mem_limit_bytes)
    return chosen


def tensorrt_options(
    precision: Precision, spec: InputSpec, options: RuntimeOptions
) -> dict[str, str]:
    """Return the options of the TensorRT provider.

    The profile spans all that the service sends, so that no request rebuilds the engine, which
    takes half a minute and more.
    """
    least, most = spec.divisor, spec.tile_px
    largest = f"{INPUT_NAME}:{options.max_batch_tiles}x{most}x{most}x3"
    chosen = {
        "device_id": str(options.device_id),
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_profile_min_shapes": f"{INPUT_NAME}:1x{least}x{least}x3",
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }
    if options.gpu_mem_limit_bytes is not None:
        chosen["trt_max_workspace_size"] = str(options.gpu_mem_limit_bytes)
    if options.engine_cache_dir is not None:
        folder = str(options.engine_cache_dir)
        chosen |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
    return chosen


def create_cpu_session(content: bytes, options: RuntimeOptions) -> Any:
    """Create a session on the default provider, as `create_session` does."""
    threads = options.threads or usable_processors()
    # All runs share the session's pool, each besides its calling thread.
    pool = options.streams * (threads - 1) + 1
    return create_session(content, [CPU_PROVIDER], pool, share_arena=options.alone_threads > 0)


def create_session(
    content: bytes, providers: list[Any], threads: int, *, share_arena: bool = False
) -> Any:
    """Create a session; nothing is promised of the provider that it runs on.

    Args:
        content: The ONNX file.
        providers: As onnxruntime takes them.
        threads: As in `RuntimeOptions`.
        share_arena: Take memory for runs on the CPU from one arena of this process. Sessions that
            never run at the same time then need it once.

    Returns:
        The `onnxruntime.InferenceSession`.

    Raises:
        ModelContractError: onnxruntime cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # what fails is raised here, not printed there
    options.intra_op_num_threads = threads or usable_processors()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pattern is one block for all of a run's tensors, kept for each shape ever seen: 50 to
    # 100 MB more after a few image sizes, and no faster. The arena stays: a run without it takes
    # 40 % longer.
    options.enable_mem_pattern = False
    # Threads that wait for the next layer spin, which pays within a run. After it they would go on
    # for milliseconds, and take a processor from the separation that follows.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if share_arena:
        with _ARENA_LOCK:
            _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights in the arena would keep the piece that they lie in from ever being given back.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise ModelContractError(f"onnxruntime cannot load it: {first_line(error)}") from error


@functools.cache
def _register_arena() -> None:
    """Make the arena that sessions of this process may share; onnxruntime takes it only once."""
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    # Left alone the arena takes pieces of 2, 4, 8 ... MiB, and as tiles of many shapes leave gaps
    # in them it takes a next one now and then. In one piece what is free joins again.
    piece = onnxruntime.OrtArenaCfg(
        {
            "max_mem": 0,
            "arena_extend_strategy": 0,
            "initial_chunk_size_bytes": -1,
            "max_dead_bytes_per_chunk": -1,
            "initial_growth_chunk_size_bytes": _ARENA_PIECE_BYTES,
        }
    )
    onnxruntime.create_and_register_allocator(memory, piece)


def first_line(error: Exception) -> str:
    """Return what an exception of onnxruntime says, without the lines of its call stack."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _missing(provider: RealProvider) -> str:
    """Return what is missing as the end of a sentence."""
    if PROVIDER_NAMES[provider] not in ON_NVIDIA:
        return "; its options or its libraries were refused"
    missing = cuda_shortcomings(tensorrt=provider == "tensorrt")
    if missing:
        return f"; missing: {', '.join(missing)}"
    return (
        "; the driver and the libraries load, so look for a GPU that is not visible "
        "(CUDA_VISIBLE_DEVICES, the container's GPU reservation) or too old"
    )
