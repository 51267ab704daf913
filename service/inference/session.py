"""One model file, loaded and checked: an onnxruntime session that keeps the model contract."""

import contextlib
import hashlib
import importlib.metadata
import io
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import ModelContractError, ProviderError
from service.inference.contract import INPUT_NAME, OUTPUT_NAME, ModelContract, parse_contract
from service.inference.processors import usable_processors

Provider = Literal["auto", "cpu", "cuda"]

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"

# All of them own the module folder `onnxruntime`.
_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-training",
    "onnxruntime-rocm",
)
_FATAL_ONLY: Final = 4
_CUDA_OPTIONS: Final = {
    # The exhaustive search costs half a second for each new shape, the heuristic 2 ms.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Grow by what is asked for, not by powers of two that are never given back.
    "arena_extend_strategy": "kSameAsRequested",
}


class ModelSession:
    """A model file that was found to keep its contract, ready to run.

    Safe to call from several threads at once.

    Attributes:
        contract: What the file says of itself.
        digest: SHA-256 of the file, hexadecimal.
        provider: Execution provider that really runs, for example `CPUExecutionProvider`.
        path: The file.
    """

    def __init__(self, path: Path, digest: str, contract: ModelContract, session: Any) -> None:
        self.path = path
        self.digest = digest
        self.contract = contract
        self.provider: str = session.get_providers()[0]
        self._session = session

    @classmethod
    def load(cls, path: Path, *, provider: Provider = "auto", threads: int = 0) -> Self:
        """Load a model file, check it against its contract and run it once.

        Args:
            path: The `.onnx` file.
            provider: `cpu`; `cuda`, which fails unless the GPU really runs the model; or `auto`,
                which is `cuda` where that works and `cpu` elsewhere.
            threads: Threads of one run on the CPU; 0 takes as many as there are processors for
                this process.

        Returns:
            The session.

        Raises:
            ModelContractError: The file cannot be read, is not ONNX, or breaks the contract.
            ProviderError: CUDA was asked for and does not run, or several onnxruntime
                distributions are installed over each other.
        """
        check_distributions()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelContractError(f"{_short(path)}: cannot be read: {error.strerror}") from error
        try:
            session, contract = _open(content, provider, threads)
        except ModelContractError as error:
            raise ModelContractError(f"{_short(path)}: {error}") from error
        return cls(path, hashlib.sha256(content).hexdigest(), contract, session)

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model; the result does not depend on how tiles are put into batches.

        Args:
            tiles: RGB, shape (N, H, W, 3), uint8, H and W multiples of the contract's divisor.

        Returns:
            Maps, shape (N, H, W, C), uint8, 0..255 for 0..1, channels as the contract names them.

        Raises:
            ValueError: `tiles` has not the shape or dtype above.
        """
        divisor = self.contract.input.divisor
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
            raise ValueError(f"tiles of shape {tiles.shape}, {tiles.dtype}: not (N, H, W, 3) uint8")
        if 0 in tiles.shape or tiles.shape[1] % divisor or tiles.shape[2] % divisor:
            raise ValueError(f"tiles of shape {tiles.shape}: sides are no multiples of {divisor}")
        if self.provider == CUDA_PROVIDER:
            return _run(self._session, tiles)
        # A batch gains nothing on a CPU that one tile keeps busy, and its memory is never given
        # back: four tiles of 512 px left 768 MB resident, four runs of one tile 265 MB.
        return np.concatenate([_run(self._session, tiles[i : i + 1]) for i in range(len(tiles))])

    def warm_up(self) -> None:
        """Run one full tile, so that the first caller does not pay for first-time allocation."""
        side = self.contract.input.tile_px
        self.run(np.zeros((1, side, side, 3), dtype=np.uint8))


def check_distributions() -> None:
    """Refuse an environment in which onnxruntime wheels overwrite each other.

    Raises:
        ProviderError: More than one distribution owns the module folder `onnxruntime`.
    """
    installed = []
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed.append(f"{name} {importlib.metadata.version(name)}")
    if len(installed) > 1:
        raise ProviderError(
            f"{' and '.join(installed)} are installed in one folder and break each other; "
            "make a fresh environment with exactly one of them"
        )


def _open(content: bytes, provider: Provider, threads: int) -> tuple[Any, ModelContract]:
    """Return the checked session of the provider, and the contract."""
    # The CPU session comes first whatever was asked for: it tells a bad file from a bad GPU.
    session = _create(content, [CPU_PROVIDER], threads)
    contract = parse_contract(session.get_modelmeta().custom_metadata_map)
    _check_tensors(session, contract)
    _check_canary(session, contract)
    if provider == "cpu":
        return session, contract
    try:
        return _open_cuda(content, contract, threads), contract
    except ProviderError:
        if provider == "cuda":
            raise
        return session, contract


def _open_cuda(content: bytes, contract: ModelContract, threads: int) -> Any:
    """Return a session that was seen to run on the GPU, or raise ProviderError."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise ProviderError(
            "this onnxruntime has no CUDA provider; install the extra `gpu` instead of `cpu`"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find; the provider read back below is what counts.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    try:
        session = _create(content, [(CUDA_PROVIDER, _CUDA_OPTIONS), CPU_PROVIDER], threads)
    except ModelContractError as error:
        raise ProviderError(f"CUDA does not start: {error}") from error
    # onnxruntime falls back to the CPU in silence when a library or the driver is missing.
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise ProviderError(
            "CUDA was asked for and onnxruntime fell back to the CPU; check the NVIDIA driver, and "
            "that CUDA and cuDNN are those that this onnxruntime-gpu was built for"
        )
    try:
        _check_canary(session, contract)
    except ModelContractError as error:
        raise ProviderError(f"CUDA does not run the model: {error}") from error
    return session


def _create(content: bytes, providers: list[Any], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # what fails is raised here, not printed there
    options.intra_op_num_threads = threads or usable_processors()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pattern is one block for all of a run's tensors, kept for each shape ever seen: 50 to
    # 100 MB more after a few image sizes, and no faster. The arena stays: a run without it takes
    # 40 % longer.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise ModelContractError(f"onnxruntime cannot load it: {_first_line(error)}") from error


def _check_tensors(session: Any, contract: ModelContract) -> None:
    """Compare the graph's inputs and outputs with the contract."""
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


def _check_canary(session: Any, contract: ModelContract) -> None:
    """Run the smallest batch of unequal sides that the contract allows."""
    divisor = contract.input.divisor
    tiles = np.zeros((2, divisor, 2 * divisor, 3), dtype=np.uint8)
    expected = (*tiles.shape[:3], len(contract.output.channels))
    try:
        maps = _run(session, tiles)
    except Exception as error:
        raise ModelContractError(
            f"it does not run on tiles of {divisor} x {2 * divisor} px: {_first_line(error)}"
        ) from error
    if maps.shape != expected or maps.dtype != np.uint8:
        raise ModelContractError(
            f"it turns {tiles.shape} into {maps.shape}, {maps.dtype}, not {expected}, uint8"
        )


def _run(session: Any, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    maps: NDArray[np.uint8] = session.run([OUTPUT_NAME], {INPUT_NAME: tiles})[0]
    return maps


def _short(path: Path) -> str:
    """Name a file without telling where the repository lies."""
    return "/".join(path.parts[-3:])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
