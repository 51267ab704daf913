"""Chooses how to run a model version: which provider, in which precision, from which file.

    auto, in this order   cuda fp16, cuda fp32, openvino int8, openvino bf16, cpu int8, cpu fp32
                          (openvino bf16 before int8 on processors whose bf16 is as fast: no AMX)
    taken where           the provider runs, the contract accepts the precision, and the processor
                          or the card is good at it

float32 on a processor is always onnxruntime's default provider unless OpenVINO is asked for: it is
what the exporter verified, and as fast (docs/adr/0006).
"""

from pathlib import Path
from typing import Final

from service.errors import PrecisionError, ProviderError
from service.inference.contract import ModelContract
from service.inference.installation import compute_capability
from service.inference.precision import (
    Precision,
    PrecisionChoice,
    needed_instructions,
    processor_flags,
    processor_suits,
)
from service.inference.providers import (
    DEFAULT_OPTIONS,
    Provider,
    RealProvider,
    RuntimeOptions,
    is_available,
)
from service.inference.session import ModelSession

MODEL_FILE: Final = "model.onnx"

_FASTEST_FIRST: Final[dict[RealProvider, tuple[Precision, ...]]] = {
    "cuda": ("fp16", "fp32"),
    "tensorrt": ("fp16", "fp32"),
    "openvino": ("int8", "bf16", "fp32"),
    "cpu": ("int8", "fp32"),
}
_AUTO_PROVIDERS: Final[tuple[RealProvider, ...]] = ("cuda", "openvino", "cpu")
_TENSOR_CORES_SINCE: Final = (7, 0)  # Volta; before it fp16 is no faster than fp32


def load_best(
    folder: Path,
    *,
    provider: Provider = "auto",
    precision: PrecisionChoice = "auto",
    options: RuntimeOptions = DEFAULT_OPTIONS,
) -> ModelSession:
    """Load a model version in the fastest way that is asked for, accepted and really runs.

    Args:
        folder: Of the version; `model.onnx` is the reference, `model.<precision>.onnx` variants.
        provider: `auto`, or one that must run.
        precision: `auto`, or one that must be used.
        options: How to use the machine.

    Returns:
        The session; `passed_over` says why nothing faster was taken.

    Raises:
        ModelContractError: A file is refused, or is no variant of this `model.onnx`.
        PrecisionError: The precision asked for was not accepted for this model, or this machine is
            no good at it.
        ProviderError: The provider asked for does not run.
    """
    # The reference comes first: it carries the contract, and proves the file on the CPU.
    reference = ModelSession.load(folder / MODEL_FILE, provider="cpu", options=options)
    passed_over: list[str] = []
    failure: ProviderError | None = None
    for candidate, its_precision in _candidates(provider, precision):
        if provider == "auto" and not is_available(candidate):
            continue
        reason = _why_not(folder, reference.contract, candidate, its_precision, options.device_id)
        if reason is None and not _processor_gains(its_precision, guess=precision != "auto"):
            needed = ", ".join(sorted(needed_instructions(its_precision)))
            reason = f"the processor has none of {needed}"
        if reason is not None:
            passed_over.append(f"{candidate} {its_precision}: {reason}")
            continue
        if (candidate, its_precision) == ("cpu", "fp32"):
            session = reference
        else:
            try:
                session = _load(folder, reference, candidate, its_precision, options)
            except ProviderError as error:
                if provider != "auto":
                    raise
                failure = error
                passed_over.append(f"{candidate} {its_precision}: {error}")
                continue
        session.passed_over = (*passed_over, *session.passed_over)
        _share_out(session, reference, options.on(candidate))
        return session
    if failure is not None:
        raise failure
    name = f"{reference.contract.name} {reference.contract.version}"
    reasons = "; ".join(passed_over) or f"no provider here runs {precision}"
    raise PrecisionError(f"{name} cannot be run in {precision}: {reasons}")


def _share_out(session: ModelSession, reference: ModelSession, options: RuntimeOptions) -> None:
    """Prepare a chosen session for lone runs, where its provider's options say so."""
    if session is not reference:
        reference.give_back_memory()  # its arena may be one that outlives it
    if options.alone_threads:
        session.widen(options)


def _candidates(
    provider: Provider, precision: PrecisionChoice
) -> list[tuple[RealProvider, Precision]]:
    """Return providers and precisions to try, the fastest first."""
    if provider != "auto":
        wanted = fastest_first(provider, processor_flags()) if precision == "auto" else (precision,)
        return [(provider, item) for item in wanted]
    return [
        (candidate, item)
        for candidate in _AUTO_PROVIDERS
        for item in fastest_first(candidate, processor_flags())
        if precision in ("auto", item) and (candidate, item) != ("openvino", "fp32")
    ]


def fastest_first(provider: RealProvider, flags: frozenset[str] | None) -> tuple[Precision, ...]:
    """Return the precisions of a provider, the fastest on a processor first.

    8-bit products are twice as fast as bfloat16 in AMX tiles, and no faster in AVX-512, where
    bfloat16 is nearer to float32 for the same time (`python -m benchmarks.precision`).

    Args:
        provider: The provider.
        flags: From `processor_flags`.
    """
    order = _FASTEST_FIRST[provider]
    if provider == "openvino" and flags and "avx512_bf16" in flags and "amx_int8" not in flags:
        return tuple(sorted(order, key=("bf16", "int8", "fp32").index))
    return order


def _why_not(
    folder: Path,
    contract: ModelContract,
    provider: RealProvider,
    precision: Precision,
    device_id: int,
) -> str | None:
    """Return why a way to run a model must not be taken, None where it may be."""
    if precision == "fp32":
        return None
    if precision not in _FASTEST_FIRST[provider]:
        return f"the provider is not run in {precision}"
    if precision == "bf16":
        if ("bf16", provider) not in {
            (item.precision, item.provider) for item in contract.reduced_precisions
        }:
            return "the model's contract does not accept it"
    elif not _variant_path(folder, precision).is_file():
        return f"there is no {_variant_path(folder, precision).name} beside {MODEL_FILE}"
    if precision == "fp16":
        capability = compute_capability(device_id)
        if capability is not None and capability < _TENSOR_CORES_SINCE:
            return f"the GPU (compute capability {capability[0]}.{capability[1]}) gains nothing"
    return None


def _processor_gains(precision: Precision, *, guess: bool) -> bool:
    """Tell whether the processor suits a precision; `guess` where nobody tells its flags."""
    suits = processor_suits(precision, processor_flags())
    return guess if suits is None else suits


def _load(
    folder: Path,
    reference: ModelSession,
    provider: RealProvider,
    precision: Precision,
    options: RuntimeOptions,
) -> ModelSession:
    options = options.on(provider)
    if precision in ("fp32", "bf16"):
        return ModelSession.load(
            reference.path, provider=provider, precision=precision, options=options
        )
    return ModelSession.load(
        _variant_path(folder, precision),
        provider=provider,
        precision=precision,
        options=options,
        reference=reference,
    )


def _variant_path(folder: Path, precision: Precision) -> Path:
    return folder / f"model.{precision}.onnx"
