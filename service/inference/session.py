"""One model file, loaded and checked: an onnxruntime session that keeps the model contract."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import FatalProviderError, ModelContractError, ProviderError
from service.inference.binding import BoundRunner
from service.inference.contract import ModelContract, parse_contract
from service.inference.golden import (
    Golden,
    GoldenResult,
    check_golden,
    make_golden,
    read_golden,
)
from service.inference.graph import (
    check_canary,
    check_tensors,
    check_variant,
    give_back_arena,
    run_once,
)
from service.inference.installation import check_distributions
from service.inference.precision import Precision
from service.inference.providers import (
    CPU_PROVIDER,
    ON_NVIDIA,
    Provider,
    RealProvider,
    RuntimeOptions,
    create_cpu_session,
    first_line,
    is_available,
    open_provider,
    provider_named,
)
from service.inference.rewriting import rewrite_for_processor

# After these the CUDA context of the process is lost: every later call fails, whatever it does.
# Codes and names of `enum cudaError` (CUDA Runtime API, Error Handling); running out of memory is
# none of them.
_STICKY_CUDA_ERROR: Final = re.compile(
    r"CUDA (?:failure|error) (?:46|214|220|226|700|702|71[0-9])\b"
    r"|cudaError(?:IllegalAddress|LaunchTimeout|LaunchFailure|HardwareStackError"
    r"|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|Assert"
    r"|ECCUncorrectable|DevicesUnavailable)"
    r"|illegal memory access|unspecified launch failure|uncorrectable ECC error"
    r"|device-side assert",
    re.IGNORECASE,
)


class ModelSession:
    """A model file that was found to keep its contract, ready to run.

    Safe to call from several threads at once.

    Attributes:
        contract: What the file says of itself.
        digest: SHA-256 of the file, hexadecimal.
        provider: Execution provider that really runs, for example `CPUExecutionProvider`.
        precision: What it computes in.
        path: The file.
        golden: How near it came in the self-test; None where nothing was compared.
        passed_over: Why no faster way to run the model was taken, one sentence each.
        rewritten: Whether the graph was rewritten for processors (`service.inference.rewriting`).
        on_fatal: Called once a run has failed so that none will succeed in this process.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        contract: ModelContract,
        session: Any,
        *,
        precision: Precision = "fp32",
        golden: GoldenResult | None = None,
        device_id: int = 0,
    ) -> None:
        self.path = path
        self.digest = digest
        self.contract = contract
        self.provider: str = session.get_providers()[0]
        self.precision: Precision = precision
        self.golden = golden
        self.passed_over: tuple[str, ...] = ()
        self.rewritten = False
        self.on_fatal: Callable[[FatalProviderError], None] | None = None
        self._session = session
        self._wide: Any = None
        self._bound = (
            BoundRunner(session, len(contract.output.channels), device="cuda", device_id=device_id)
            if self.provider in ON_NVIDIA
            else None
        )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        provider: Provider = "auto",
        threads: int = 0,
        precision: Precision | None = None,
        options: RuntimeOptions | None = None,
        reference: Self | None = None,
    ) -> Self:
        """Load this very file, check it and run it once; `load_best` chooses among files.

        Args:
            path: The `.onnx` file.
            provider: `cpu`, the default provider of onnxruntime; `openvino`, `cuda` or `tensorrt`,
                which fail unless they really run the model; or `auto`, which is `cuda` where that
                works and `cpu` elsewhere.
            threads: Threads of one run on the CPU; 0 takes as many as there are processors for
                this process.
            precision: None for the file's own; `bf16` runs a float32 file in bfloat16.
            options: How to use the machine; `threads` is then taken from here.
            reference: The model that this file must be a variant of.

        Returns:
            The session.

        Raises:
            ModelContractError: The file cannot be read, is not ONNX, breaks the contract, is of
                another precision, or fails the self-test.
            ProviderError: The provider does not run, or several onnxruntime distributions are
                installed over each other.
        """
        check_distributions()
        options = options or RuntimeOptions(threads=threads)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelContractError(f"{_short(path)}: cannot be read: {error.strerror}") from error
        try:
            # The CPU comes first whatever was asked for: it tells a bad file from a bad GPU.
            checked = _check_file(path, content, precision, provider, options)
            if reference is not None:
                check_variant(checked.contract, reference.contract, reference.digest)
            if provider == "cpu" or (provider == "auto" and not is_available("cuda")):
                return cls._take_processor(checked)
            if provider != "auto":
                return cls._accelerate(checked, provider)
            try:
                return cls._accelerate(checked, "cuda")
            except ProviderError as error:
                loaded = cls._take_processor(checked)
                loaded.passed_over = (str(error), *loaded.passed_over)
                return loaded
        except ModelContractError as error:
            raise ModelContractError(f"{_short(path)}: {error}") from error

    @classmethod
    def _take_processor(cls, checked: "_CheckedFile") -> Self:
        """Run a file on the default provider."""
        loaded, why_not = cls._load_rewritten(checked, "cpu")
        if loaded is None:
            loaded = cls._finish(checked, checked.on_cpu)
            loaded.passed_over = why_not
        return loaded

    @classmethod
    def _accelerate(cls, checked: "_CheckedFile", provider: RealProvider) -> Self:
        """Open a file on a provider that must run it, or raise ProviderError."""
        loaded: Self | None = None
        why_not: tuple[str, ...] = ()
        if provider == "openvino":
            loaded, why_not = cls._load_rewritten(checked, provider)
        if loaded is None:
            session = open_provider(
                checked.content,
                provider,
                checked.precision,
                checked.contract.input,
                checked.options,
            )
            try:
                check_canary(session, checked.contract)
                loaded = cls._finish(checked, session)
            except ModelContractError as error:
                raise ProviderError(f"{provider} does not run the model: {error}") from error
            loaded.passed_over = why_not
        return loaded

    @classmethod
    def _load_rewritten(
        cls, checked: "_CheckedFile", provider: RealProvider
    ) -> tuple[Self | None, tuple[str, ...]]:
        """Run the graph as rewritten for processors, where it gives the same maps in float32.

        Returns:
            The session, or None and, where the rewriting failed, why.
        """
        contract, content = checked.contract, None
        if checked.options.rewrite and checked.precision == "fp32":
            try:
                content = rewrite_for_processor(checked.content, contract.input.divisor)
            except Exception as error:  # noqa: BLE001  `onnx` does not read all that runs
                return None, (f"the graph cannot be rewritten for processors: {first_line(error)}",)
        if content is None:
            return None, ()
        try:
            session = open_provider(content, provider, "fp32", contract.input, checked.options)
            check_canary(session, contract)
            loaded = cls._finish(checked, session)
        except (ModelContractError, ProviderError) as error:
            # The file itself may still be right; whoever takes it instead will see.
            return None, (f"the graph as rewritten for processors: {error}",)
        loaded.rewritten = True
        return loaded, ()

    @classmethod
    def _finish(cls, checked: "_CheckedFile", session: Any) -> Self:
        """Test a session against the golden tile, and wrap it."""
        contract, golden, result = checked.contract, checked.golden, None
        if golden is None and session is not checked.on_cpu:
            golden = make_golden(
                functools.partial(run_once, checked.on_cpu), contract.input.divisor
            )
        if golden is not None:
            result = check_golden(
                functools.partial(run_once, session),
                golden,
                checked.precision,
                contract.separation.probability_threshold,
            )
        return cls(
            checked.path,
            hashlib.sha256(checked.content).hexdigest(),
            contract,
            session,
            precision=checked.precision,
            golden=result,
            device_id=checked.options.device_id,
        )

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model; the result does not depend on how tiles are put into batches.

        Args:
            tiles: RGB, shape (N, H, W, 3), uint8, H and W multiples of the contract's divisor.

        Returns:
            Maps, shape (N, H, W, C), uint8, 0..255 for 0..1, channels as the contract names them.

        Raises:
            ValueError: `tiles` has not the shape or dtype above.
            FatalProviderError: The device is lost; the process must end.
        """
        self._check_tiles(tiles)
        if self._bound is not None:
            return self._run_on_device(self._bound, tiles)
        return _one_by_one(self._session, tiles)

    def _check_tiles(self, tiles: NDArray[np.uint8]) -> None:
        divisor = self.contract.input.divisor
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
            raise ValueError(f"tiles of shape {tiles.shape}, {tiles.dtype}: not (N, H, W, 3) uint8")
        if 0 in tiles.shape or tiles.shape[1] % divisor or tiles.shape[2] % divisor:
            raise ValueError(f"tiles of shape {tiles.shape}: sides are no multiples of {divisor}")

    def run_alone(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the model with all threads, for when no other run is going on; else like `run`."""
        if self._wide is None:
            return self.run(tiles)
        self._check_tiles(tiles)
        return _one_by_one(self._wide, tiles)

    @property
    def has_wide(self) -> bool:
        """Whether `run_alone` has a session of its own."""
        return self._wide is not None

    def widen(self, options: RuntimeOptions) -> None:
        """Give `run_alone` a session of its own, with `alone_threads` threads.

        Its weights are in memory a second time; see `RuntimeOptions`.

        Args:
            options: As this session was loaded with.

        Raises:
            ModelContractError: The file has changed since it was loaded, or fails the self-test.
            ProviderError: The provider does not run a second session.
        """
        provider = provider_named(self.provider)
        if provider == "auto" or self.provider in ON_NVIDIA:
            raise ProviderError(f"{self.provider} has no threads to share out")
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ModelContractError(f"{_short(self.path)}: changed while it was being loaded")
        if self.rewritten:
            content = rewrite_for_processor(content, self.contract.input.divisor) or content
        wide = open_provider(
            content,
            provider,
            self.precision,
            self.contract.input,
            dataclasses.replace(options, threads=options.alone_threads, streams=1),
        )
        check_canary(wide, self.contract)
        self._wide = wide

    def _run_on_device(self, bound: BoundRunner, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            return bound.run(tiles)
        except Exception as error:
            if _STICKY_CUDA_ERROR.search(str(error)) is None:
                raise
            fatal = FatalProviderError(
                f"{self.provider} has failed for good; this process takes no more work and ends."
            )
            if self.on_fatal is not None:
                self.on_fatal(fatal)
            raise fatal from error

    def give_back_memory(self) -> None:
        """Free what runs on the default CPU provider left for the next run; that one takes longer.

        Other providers keep what they have.
        """
        if self.provider == CPU_PROVIDER:
            give_back_arena(self._session, self.contract.input.divisor)

    def warm_up(self) -> None:
        """Run one full tile, so that the first caller does not pay for first-time allocation."""
        side = self.contract.input.tile_px
        self.run(np.zeros((1, side, side, 3), dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class _CheckedFile:
    """A file that keeps its contract on the CPU, and how it is to be run."""

    path: Path
    content: bytes
    contract: ModelContract
    precision: Precision
    golden: Golden | None
    on_cpu: Any
    options: RuntimeOptions


def _one_by_one(session: Any, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # A batch gains nothing on a CPU that one tile keeps busy, and its memory is never given
    # back: four tiles of 512 px left 768 MB resident, four runs of one tile 265 MB.
    return np.concatenate([run_once(session, tiles[i : i + 1]) for i in range(len(tiles))])


def _check_file(
    path: Path,
    content: bytes,
    precision: Precision | None,
    provider: Provider,
    options: RuntimeOptions,
) -> _CheckedFile:
    """Check a file on the CPU, or raise ModelContractError."""
    on_cpu = create_cpu_session(content, options)
    contract = parse_contract(on_cpu.get_modelmeta().custom_metadata_map)
    check_tensors(on_cpu, contract)
    check_canary(on_cpu, contract)
    channels = len(contract.output.channels)
    return _CheckedFile(
        path=path,
        content=content,
        contract=contract,
        precision=_resolve_precision(contract, precision, provider),
        golden=read_golden(path.parent, contract.input.divisor, channels),
        on_cpu=on_cpu,
        options=options,
    )


def _resolve_precision(
    contract: ModelContract, asked: Precision | None, provider: Provider
) -> Precision:
    """Return what the file will be run in, or refuse what it is not made for."""
    own: Precision = contract.variant.precision if contract.variant is not None else "fp32"
    if asked is None or asked == own:
        return own
    if asked == "bf16" and own == "fp32" and provider == "openvino":
        return asked
    raise ModelContractError(f"the file computes in {own}, not in {asked}")


def _short(path: Path) -> str:
    """Name a file without telling where the repository lies."""
    return "/".join(path.parts[-3:])
