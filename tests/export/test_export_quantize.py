"""Variants: made, judged through the service, kept or refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from rich.console import Console

from export import quantize as quantize_module
from export.accuracy import Judge, Measured, check_apart, excess, is_accepted
from export.contract import TrainedRun, build_contract, check_contract
from export.errors import ExportRefusedError
from export.int8 import open_quantiser, search
from export.onnx_file import digest, read, restamp, write
from export.quantize import QuantizeOrder, Verdict, quantize
from service.inference.contract import CONTRACT_KEY, VariantAccuracy, VariantSpec
from service.inference.session import ModelSession
from training.datasets import Sample


def accuracy(dice_change: float, points: float) -> VariantAccuracy:
    return VariantAccuracy(
        dataset="d",
        split="s",
        images=1,
        dice_change=dice_change,
        count_bias_change_points=points,
    )


@pytest.mark.parametrize(
    ("dice_change", "points", "accepted"),
    [
        (0.0, 0.0, True),
        (-0.005, 1.0, True),
        (0.02, -1.0, True),
        (-0.0051, 0.0, False),
        (0.0, 1.01, False),
        (0.0, -1.01, False),
    ],
)
def test_the_limits(dice_change: float, points: float, *, accepted: bool) -> None:
    assert is_accepted(accuracy(dice_change, points)) is accepted


@pytest.fixture(scope="module")
def model_file(
    tiny_proto: onnx.ModelProto, tiny_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("variants") / "model.onnx"
    write(tiny_proto, build_contract(tiny_run, name="tiny", version="0.1.0"), path)
    return path


@pytest.fixture(scope="module")
def verdicts(model_file: Path, test_data: Path) -> dict[str, Verdict]:
    order = QuantizeOrder(model_file, test_data, "nucls_*", test_data, "07,08")
    return {verdict.precision: verdict for verdict in quantize(order, Console(quiet=True))}


def test_every_precision_has_a_verdict_and_files_follow_it(
    verdicts: dict[str, Verdict], model_file: Path
) -> None:
    assert list(verdicts) == ["bf16", "int8", "fp16"]
    assert verdicts["fp16"].accepted
    for precision in ("int8", "fp16"):
        verdict = verdicts[precision]
        path = model_file.with_name(f"model.{precision}.onnx")
        assert verdict.accuracy is not None
        assert path.exists() is verdict.accepted is is_accepted(verdict.accuracy)


def test_a_variant_is_a_complete_file_that_names_its_reference(
    verdicts: dict[str, Verdict], model_file: Path
) -> None:
    path = model_file.with_name("model.fp16.onnx")
    session = ModelSession.load(path, provider="cpu")
    assert session.contract.variant is not None
    assert session.contract.variant.precision == "fp16"
    assert session.contract.variant.reference_sha256 == digest(model_file)
    assert session.contract.variant.accuracy == verdicts["fp16"].accuracy
    reference = ModelSession.load(model_file, provider="cpu")
    assert session.contract.separation == reference.contract.separation
    assert reference.contract.variant is None
    kinds = {c.data_type for c in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    check_contract(session.contract.to_metadata())


def _int8_numbers(proto: onnx.ModelProto) -> int:
    return sum(
        int(np.prod(c.dims))
        for c in proto.graph.initializer
        if c.data_type == onnx.TensorProto.INT8 and len(c.dims) == 4
    )


def test_int8_holds_its_large_weights_in_eight_bits(
    tiny_proto: onnx.ModelProto, samples: list[Sample]
) -> None:
    with open_quantiser(tiny_proto, [samples[0].read()[0]]) as quantiser:
        proto = quantiser.quantise("minmax")
        percentile = quantiser.quantise("percentile")
        spared = quantiser.quantise("minmax", quantiser.convolutions)
        kernels = {
            node.input[1] for node in quantiser.prepared().graph.node if node.op_type == "Conv"
        }
        constants = {c.name: c for c in quantiser.prepared().graph.initializer}
    expected = sum(int(np.prod(constants[name].dims)) for name in kernels)
    assert _int8_numbers(proto) == expected > 0
    assert _int8_numbers(spared) == 0
    assert proto.SerializeToString() != percentile.SerializeToString()


def test_the_search_leaves_out_what_hurts_and_no_more(
    tiny_proto: onnx.ModelProto, samples: list[Sample]
) -> None:
    with open_quantiser(tiny_proto, [samples[0].read()[0]]) as quantiser:
        culprit = quantiser.convolutions[-1]

        def judge(proto: onnx.ModelProto) -> VariantAccuracy:
            node = next(node for node in proto.graph.node if node.name == culprit)
            made_by = {out: n for n in proto.graph.node for out in n.output}
            kernel = made_by.get(node.input[1])
            quantised = kernel is not None and kernel.op_type == "DequantizeLinear"
            return accuracy(-0.02 if quantised else -0.002, 0)

        _, left_out = search(quantiser, judge, lambda _: None)
        assert left_out == [culprit]
        _, left_out = search(quantiser, lambda _: accuracy(0, 0.9), lambda _: None)
        assert left_out == []
        _, left_out = search(quantiser, lambda _: accuracy(0, 5), lambda _: None)
        assert left_out == []


def test_a_refused_variant_is_not_left_behind(
    model_file: Path, samples: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_file.read_bytes())
    stale = tmp_path / "model.int8.onnx"
    stale.write_bytes(b"of an older model")
    proto, _ = read(path)
    judge = Judge(samples[-1:], dataset="d", split="s")
    # A reference that no file reaches.
    verdict = quantize_module._keep(path, "int8", proto, judge, Measured(2.0, 0.0), "")
    assert not verdict.accepted
    assert not stale.exists()


def test_what_does_not_fit_is_refused_before_any_work(
    model_file: Path, test_data: Path, tmp_path: Path, tiny_proto: onnx.ModelProto
) -> None:
    with pytest.raises(ExportRefusedError, match="both calibrate and judge"):
        quantize(QuantizeOrder(model_file, test_data, None, test_data, "07"), Console(quiet=True))
    variant = tmp_path / "model.onnx"
    _, contract = read(model_file)
    spec = VariantSpec(precision="int8", reference_sha256="0" * 64, accuracy=accuracy(0, 0))
    write(tiny_proto, contract.model_copy(update={"variant": spec}), variant)
    with pytest.raises(ExportRefusedError, match="is an int8 variant"):
        quantize(QuantizeOrder(variant, test_data, "nucls_*", test_data, "07"), Console(quiet=True))


def test_images_that_calibrate_may_not_judge(samples: list[Sample]) -> None:
    check_apart(samples[:2], samples[2:])
    with pytest.raises(ExportRefusedError, match="1 images"):
        check_apart(samples[:2], samples[1:])


def test_restamping_keeps_the_graph_and_tells_the_variants(
    verdicts: dict[str, Verdict], model_file: Path, tmp_path: Path
) -> None:
    assert verdicts["fp16"].accepted
    for name in ("model.onnx", "model.fp16.onnx"):
        (tmp_path / name).write_bytes((model_file.parent / name).read_bytes())
    path, variant_path = tmp_path / "model.onnx", tmp_path / "model.fp16.onnx"
    graph = onnx.load(path).graph.SerializeToString()
    _, contract = read(path)
    restamp(path, contract.model_copy(update={"quality_reference": {"tissue.least_fraction": 0.1}}))
    assert onnx.load(path).graph.SerializeToString() == graph
    _, variant = read(variant_path)
    assert variant.quality_reference == {"tissue.least_fraction": 0.1}
    assert variant.variant is not None
    assert variant.variant.reference_sha256 == digest(path)
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert list(metadata) == [CONTRACT_KEY]


def test_excess_is_measured_in_limits() -> None:
    assert excess(accuracy(-0.01, 0.5)) == pytest.approx(2.0)
    assert excess(accuracy(0.01, -3.0)) == pytest.approx(3.0)


def test_openvino_judges_bf16_where_it_is_installed(verdicts: dict[str, Verdict]) -> None:
    installed = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()
    assert (verdicts["bf16"].accuracy is not None) is installed
    if not installed:
        assert "no OpenVINO provider" in verdicts["bf16"].remark
        assert not verdicts["bf16"].accepted


def test_the_judge_measures_what_the_service_answers(
    model_file: Path, samples: list[Sample]
) -> None:
    judge = Judge(samples, dataset="d", split="s")
    measured = judge.measure(ModelSession.load(model_file, provider="cpu"))
    assert 0 < measured.dice < 1
    same = judge.compare(measured, measured)
    assert (same.dice_change, same.count_bias_change_points) == (0, 0)
