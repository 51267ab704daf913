"""Which provider, precision and file of a version are taken, and what is refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import ModelContractError, PrecisionError, ProviderError
from service.inference import choice
from service.inference.choice import load_best
from service.inference.providers import CPU_PROVIDER, OPENVINO_PROVIDER, is_available
from service.inference.session import ModelSession

MakeModel = Callable[..., Path]

ACCURACY = {
    "dataset": "tnbc",
    "split": "validation",
    "images": 8,
    "dice_change": -0.001,
    "count_bias_change_points": 0.2,
}
BF16 = [{"precision": "bf16", "provider": "openvino", "accuracy": ACCURACY}]
FAST = CPU_PROVIDER if not is_available("openvino") else OPENVINO_PROVIDER
needs_openvino = pytest.mark.skipif(
    not is_available("openvino"), reason="needs onnxruntime-openvino"
)


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to a processor with these flags; VNNI and bf16 unless a test says otherwise."""

    def pretend(*flags: str) -> None:
        monkeypatch.setattr(choice, "processor_flags", lambda: frozenset(flags))

    pretend("avx512_vnni", "avx512_bf16")
    return pretend


@pytest.fixture
def version(tiny_model_factory: MakeModel, tmp_path: Path) -> Callable[..., Path]:
    """Make a version folder: `version("int8", changes of the variant's contract...)`."""

    def make(precision: str | None = "int8", reference: Any = None, **changes: Any) -> Path:
        folder = tmp_path / "tiny" / "1.0.0"
        path = tiny_model_factory(folder / "model.onnx", **(reference or {}))
        if precision is not None:
            spec = {
                "precision": precision,
                "reference_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "accuracy": ACCURACY,
            }
            tiny_model_factory(
                folder / f"model.{precision}.onnx",
                **{"variant": spec, "description": "8", **changes},
            )
        return folder

    return make


def test_the_fastest_accepted_precision_is_taken(version: Callable[..., Path]) -> None:
    folder = version()
    session = load_best(folder)
    assert (session.provider, session.precision) == (FAST, "int8")
    assert session.path.name == "model.int8.onnx"
    assert session.digest == hashlib.sha256(session.path.read_bytes()).hexdigest()
    assert session.golden is not None or FAST == CPU_PROVIDER


@needs_openvino
@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        (("avx512_vnni", "avx512_bf16"), "bf16"),
        (("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"), "int8"),
        (("avx512_vnni",), "int8"),
    ],
)
def test_of_two_accepted_precisions_the_one_that_the_processor_is_faster_in(
    version: Callable[..., Path],
    processor: Callable[..., None],
    flags: tuple[str, ...],
    taken: str,
) -> None:
    processor(*flags)
    folder = version("int8", {"reduced_precisions": BF16})
    assert load_best(folder).precision == taken


def test_fp32_is_the_reference_file_on_the_default_provider(version: Callable[..., Path]) -> None:
    session = load_best(version(), precision="fp32")
    assert (session.provider, session.precision) == (CPU_PROVIDER, "fp32")
    assert session.path.name == "model.onnx"
    assert session.passed_over == ()


def test_a_processor_without_the_instructions_runs_fp32(
    version: Callable[..., Path], processor: Callable[..., None]
) -> None:
    processor("avx2")
    folder = version(reference={"reduced_precisions": BF16})
    session = load_best(folder)
    assert (session.provider, session.precision) == (CPU_PROVIDER, "fp32")
    assert any("the processor has none of amx_int8" in reason for reason in session.passed_over)
    with pytest.raises(PrecisionError, match="processor has none of amx_int8, avx512_vnni"):
        load_best(folder, precision="int8")


def test_where_nobody_tells_the_flags_only_the_operator_may_choose(
    version: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "processor_flags", lambda: None)
    folder = version()
    assert load_best(folder).precision == "fp32"
    assert load_best(folder, precision="int8").precision == "int8"


def test_a_precision_without_its_file_is_refused(version: Callable[..., Path]) -> None:
    folder = version(None)
    assert load_best(folder).precision == "fp32"
    with pytest.raises(PrecisionError, match=r"tiny 1\.0\.0 .* no model\.int8\.onnx beside"):
        load_best(folder, precision="int8")


def test_a_precision_that_the_provider_does_not_run_is_refused(
    version: Callable[..., Path],
) -> None:
    with pytest.raises(PrecisionError, match="cpu fp16: the provider is not run in fp16"):
        load_best(version("fp16"), provider="cpu", precision="fp16")
    with pytest.raises(PrecisionError, match="no provider here runs fp16"):
        load_best(version("fp16"), precision="fp16")


def test_bf16_needs_the_contract(version: Callable[..., Path]) -> None:
    with pytest.raises(PrecisionError, match="contract does not accept it"):
        load_best(version(None), provider="openvino", precision="bf16")


@needs_openvino
def test_bf16_is_run_where_the_contract_accepts_it(version: Callable[..., Path]) -> None:
    session = load_best(version(None, reference={"reduced_precisions": BF16}))
    assert (session.provider, session.precision) == (OPENVINO_PROVIDER, "bf16")
    assert session.path.name == "model.onnx"


@needs_openvino
def test_a_processor_without_bf16_is_never_asked_for_it(
    version: Callable[..., Path], processor: Callable[..., None]
) -> None:
    processor("avx512_vnni")
    folder = version(None, reference={"reduced_precisions": BF16})
    assert load_best(folder).precision == "fp32"
    with pytest.raises(PrecisionError, match="none of amx_bf16, avx512_bf16"):
        load_best(folder, precision="bf16")


@needs_openvino
def test_openvino_runs_fp32_where_it_is_asked_for(version: Callable[..., Path]) -> None:
    session = load_best(version(), provider="openvino", precision="fp32")
    assert (session.provider, session.precision) == (OPENVINO_PROVIDER, "fp32")


@pytest.mark.skipif(is_available("openvino"), reason="onnxruntime-openvino is installed")
def test_a_provider_that_is_asked_for_and_not_there_is_refused(
    version: Callable[..., Path],
) -> None:
    with pytest.raises(ProviderError, match="no OpenVINO provider"):
        load_best(version(), provider="openvino")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "other"}, r"a variant of other 1\.0\.0, not of tiny 1\.0\.0"),
        ({"version": "1.0.1"}, r"a variant of tiny 1\.0\.1"),
        (
            {
                "variant": {
                    "precision": "int8",
                    "reference_sha256": "0" * 64,
                    "accuracy": ACCURACY,
                }
            },
            r"tiny/1\.0\.0/model\.int8\.onnx: made from another model\.onnx",
        ),
        ({"variant": None}, "computes in fp32, not in int8"),
    ],
)
def test_a_file_that_is_no_variant_of_its_neighbour_is_refused(
    version: Callable[..., Path], changes: dict[str, Any], reason: str
) -> None:
    folder = version(**changes)
    with pytest.raises(ModelContractError, match=reason):
        load_best(folder)
    assert load_best(folder, precision="fp32").precision == "fp32"


def test_a_reduced_precision_that_fails_the_self_test_is_passed_over(
    version: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that computes nonsense is found before a caller finds it."""
    folder = version()
    real = choice.ModelSession.load

    def broken(path: Path, **options: Any) -> ModelSession:
        if path.name != "model.onnx":
            raise ProviderError("it does not run the model: the self-test fails")
        return real(path, **options)

    monkeypatch.setattr(choice.ModelSession, "load", broken)
    session = load_best(folder)
    assert session.precision == "fp32"
    assert any("the self-test fails" in reason for reason in session.passed_over)
    with pytest.raises(ProviderError, match="the self-test fails"):
        load_best(folder, precision="int8")
