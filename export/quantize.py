"""Smaller, faster variants of a model file, each kept only if it answers as the file itself does.

```
                      ┌─ int8, QDQ ──┐                    ┌─ model.int8.onnx
 model.onnx (float32) ┼─ fp16 ───────┼─ the service's own ┼─ model.fp16.onnx
                      └─ bf16 on ────┘  Dice and counts   └─ stated in model.onnx's contract
                         OpenVINO        on validation
```

int8 and fp16 are judged on every provider of this environment that serves them on a CPU
(onnxruntime's own, and OpenVINO where it is installed), and the worst counts. fp16 is made for
GPUs; on a CPU onnxruntime rounds every tensor to float16 and computes in float32, which is what is
judged. bf16 is no file but a way in which OpenVINO runs `model.onnx`.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from rich.console import Console

from export.accuracy import Judge, Measured, check_apart, describe, excess, is_accepted
from export.errors import ExportRefusedError
from export.evaluate import choose_samples
from export.int8 import open_quantiser, search
from export.onnx_file import as_variant, digest, read, restamp, write
from export.openvino import has_openvino, open_openvino
from service.inference.contract import (
    ModelContract,
    ReducedPrecisionSpec,
    VariantAccuracy,
    VariantSpec,
)
from service.inference.session import ModelSession
from training.datasets import DEFAULT_GROUP_PATTERN

VariantPrecision = Literal["int8", "fp16"]

MOST_TILES: Final = 24
"""Tiles that the ranges of activations are taken from, evenly over the calibration images."""


@dataclass(frozen=True, slots=True)
class QuantizeOrder:
    """What to reduce, and what to judge it on.

    Attributes:
        model_file: The reference, in float32.
        calibration_dir: Labelled folder with images that the model was trained on.
        calibration_groups: Its patients, as `evaluate.choose_samples` reads them; None for all.
        validation_dir: Labelled folder to judge on.
        groups: Its patients that the model was not trained on; None for all.
        group_pattern: Regular expression from file stem to patient, in both folders.
    """

    model_file: Path
    calibration_dir: Path
    calibration_groups: str | None
    validation_dir: Path
    groups: str | None
    group_pattern: str = DEFAULT_GROUP_PATTERN


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one precision; `accuracy` is None where it could not be measured here."""

    precision: str
    accepted: bool
    accuracy: VariantAccuracy | None
    remark: str


def quantize(order: QuantizeOrder, console: Console) -> list[Verdict]:
    """Make, judge, and write or refuse every reduced precision.

    Args:
        order: What to reduce.
        console: Where progress and figures are shown.

    Returns:
        One verdict a precision. Of those accepted, int8 and fp16 lie beside the model as
        `<stem>.int8.onnx` and `<stem>.fp16.onnx`, and bf16 stands in its contract; files of
        precisions that were refused are removed, for they would be of an older model.

    Raises:
        ExportRefusedError: The file is a variant itself, or images would calibrate and judge.
        KaryonError: The file is no model, or does not run.
        training.datasets.DatasetError: Unusable data.
    """
    proto, contract = read(order.model_file)
    if contract.variant is not None:
        raise ExportRefusedError(
            f"{order.model_file.name} is an {contract.variant.precision} variant; start from the "
            "file that it was made of"
        )
    pattern = order.group_pattern
    calibration = choose_samples(
        order.calibration_dir, order.calibration_groups, group_pattern=pattern
    )
    validation = choose_samples(order.validation_dir, order.groups, group_pattern=pattern)
    check_apart(calibration, validation)
    judge = Judge(
        validation,
        dataset=order.validation_dir.resolve().name,
        split=f"validation: {', '.join(sorted({sample.group for sample in validation}))}",
    )
    reference = judge.measure(ModelSession.load(order.model_file, provider="cpu"))
    console.print(
        f"{order.model_file.name}: Dice {reference.dice:.4f}, count bias "
        f"{reference.count_bias:+.2%} on {judge.split}"
    )
    bf16 = _judge_bf16(order.model_file, contract, judge, reference)
    _show(bf16, console)
    _state_bf16(order.model_file, contract, bf16)

    # Sides of any size that the divisor divides will do: nothing here depends on the tile.
    divisor = contract.input.divisor
    step = -(-len(calibration) // MOST_TILES)
    images = [sample.read()[0] for sample in calibration[::step]]
    tiles = [
        image[: image.shape[0] // divisor * divisor, : image.shape[1] // divisor * divisor]
        for image in images
    ]
    with open_quantiser(proto, tiles) as quantiser:
        int8, left_out = search(
            quantiser,
            lambda candidate: _judge(candidate, contract, judge, reference),
            lambda line: console.print(f"  int8, {line}"),
        )
        half = _in_half(quantiser.prepared())
    remark = f"{len(left_out)} of {len(quantiser.convolutions)} convolutions stay in float32"
    verdicts = [bf16, _keep(order.model_file, "int8", int8, judge, reference, remark)]
    verdicts.append(_keep(order.model_file, "fp16", half, judge, reference, "uint8 ends"))
    for verdict in verdicts[1:]:
        _show(verdict, console)
    return verdicts


def _in_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in float16 between the uint8 ends."""
    empty = {c.name for c in proto.graph.initializer if 0 in c.dims}
    for node in proto.graph.node:
        if node.op_type == "Resize":
            # An empty constant stands for an argument that is left out, but would get a Cast.
            node.input[:] = ["" if name in empty else name for name in node.input]
    used = {name for node in proto.graph.node for name in node.input}
    constants = [constant for constant in proto.graph.initializer if constant.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(constants)
    half: onnx.ModelProto = convert_float_to_float16(
        proto, keep_io_types=True, disable_shape_infer=True
    )
    # A constant that several nodes take in float32 gets the same cast once for each of them.
    kept = {node.name: node for node in reversed(half.graph.node)}
    nodes = [node for node in half.graph.node if kept[node.name] is node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


def _judge(
    proto: onnx.ModelProto, contract: ModelContract, judge: Judge, reference: Measured
) -> VariantAccuracy:
    """Measure a graph on every CPU provider of this environment; the worst counts."""
    with tempfile.TemporaryDirectory(prefix="karyon-variant-") as folder:
        path = Path(folder) / "model.onnx"
        write(proto, contract, path)
        opened: list[Callable[[], ModelSession]] = [lambda: ModelSession.load(path, provider="cpu")]
        if has_openvino():
            opened.append(lambda: open_openvino(path, "f32"))
        found = [judge.compare(reference, judge.measure(load())) for load in opened]
    return max(found, key=excess)


def _keep(
    model_file: Path,
    precision: VariantPrecision,
    proto: onnx.ModelProto,
    judge: Judge,
    reference: Measured,
    remark: str,
) -> Verdict:
    """Judge a graph, and write it beside its reference or remove what lies there."""
    _, contract = read(model_file)
    path = model_file.with_name(f"{model_file.stem}.{precision}{model_file.suffix}")
    accuracy = _judge(proto, contract, judge, reference)
    if not is_accepted(accuracy):
        path.unlink(missing_ok=True)
        return Verdict(precision, False, accuracy, remark)
    variant = VariantSpec(
        precision=precision, reference_sha256=digest(model_file), accuracy=accuracy
    )
    write(proto, as_variant(contract, variant=variant), path)
    return Verdict(precision, True, accuracy, f"{remark}, {path.stat().st_size:,} bytes")


def _judge_bf16(
    model_file: Path, contract: ModelContract, judge: Judge, reference: Measured
) -> Verdict:
    if not has_openvino():
        earlier = contract.reduced_precisions
        kept = "; what an earlier run stated stays" if earlier else ""
        return Verdict(
            "bf16", False, None, f"not judged: this onnxruntime has no OpenVINO provider{kept}"
        )
    accuracy = judge.compare(reference, judge.measure(open_openvino(model_file, "bf16")))
    return Verdict("bf16", is_accepted(accuracy), accuracy, "on OpenVINO")


def _state_bf16(model_file: Path, contract: ModelContract, verdict: Verdict) -> None:
    """Write into the reference's contract whether it may run in bf16; the graph stays as it is."""
    if verdict.accuracy is None:
        return
    stated: Sequence[ReducedPrecisionSpec] = ()
    if verdict.accepted:
        stated = (
            ReducedPrecisionSpec(precision="bf16", provider="openvino", accuracy=verdict.accuracy),
        )
    if tuple(stated) != contract.reduced_precisions:
        changed = contract.model_copy(update={"reduced_precisions": tuple(stated)})
        restamp(model_file, changed)


def _show(verdict: Verdict, console: Console) -> None:
    if verdict.accuracy is None:
        console.print(f"[yellow]{verdict.precision}[/] {verdict.remark}")
        return
    word = "[green]accepted[/]" if verdict.accepted else "[red]refused[/]"
    console.print(f"{verdict.precision} {word}: {describe(verdict.accuracy)}; {verdict.remark}")
