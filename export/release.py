"""The whole way from a run folder to a model that is served, in one direction.

```
 run folder ─ convert ─ parity ─ calibrate ─ not blank ─ evaluate ─ card ─► models/<name>/<version>/
                 └──────── any refusal: nothing is left behind ──────┘
```

Everything is made in a staging folder beside its destination and moved there last, model file at
the very end: who finds `model.onnx` finds a verified model with its card.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from rich.console import Console
from rich.progress import track

from export.calibrate import Calibration, calibrate, run_network
from export.card import write_card
from export.contract import TrainedRun, build_contract, check_contract, read_run
from export.errors import ExportRefusedError
from export.evaluate import choose_samples, evaluate, write_metrics
from export.intervals import read_intervals
from export.quality_reference import (
    choose_training_samples,
    find_trained_samples,
    learn_quality_reference,
    training_folders,
)
from export.report import print_table, write_picture
from export.seen import CALIBRATED_ON
from export.verify import check_not_blank, check_parity
from service.inference.contract import ModelContract, VerificationSpec
from service.inference.golden import write_golden
from service.inference.session import ModelSession
from service.segmenter import Segmenter
from training.datasets import Sample
from training.quiet import quiet_standard_error
from training.run_folder import recorded_data_root
from training.sources import group_pattern_for

if TYPE_CHECKING:
    import onnx

_Item = TypeVar("_Item")

MODEL_FILE: Final = "model.onnx"
_CANDIDATE: Final = "candidate.onnx"
"""Not `model.onnx`, or a service that scans the folder could pick up an unverified file."""


@dataclass(frozen=True, slots=True)
class ReleaseOrder:
    """What to release, and where.

    Attributes:
        run_dir: Folder of a finished run.
        validation_dir: Labelled folder to calibrate and measure on.
        groups: Its patients that the run has not learnt from, as `evaluate.choose_samples` reads
            them; None for all.
        name: Name that callers choose the model by.
        version: Semantic version of the weights.
        out: Folder of models.
        group_pattern: Regular expression from file stem to patient; by default the recipe's for
            a folder of this name.
        external_dirs: More labelled folders to measure on, none of them learnt from.
        data_root: Where the run's data folders lie, for the statistics that quality flags compare
            with; by default beside `validation_dir`, or where they lay in training.
        intervals: File of `python -m export intervals`, where counts shall have an interval.
        description: For the contract; made from the configuration by default.
        half_weights: Whether large weights are rounded to float16 and stored so.
        replace: Whether an existing version may be overwritten.
        commands: For the card: what to type to make it again.
    """

    run_dir: Path
    validation_dir: Path
    groups: str | None
    name: str
    version: str
    out: Path
    group_pattern: str | None = None
    external_dirs: tuple[Path, ...] = ()
    data_root: Path | None = None
    intervals: Path | None = None
    description: str | None = None
    half_weights: bool = False
    replace: bool = False
    commands: tuple[str, ...] = ()


def release(order: ReleaseOrder, console: Console) -> Path:
    """Convert, verify, calibrate, measure and describe a model.

    Args:
        order: What to release.
        console: Where progress and figures are shown.

    Returns:
        The folder `out/<name>/<version>`, with `model.onnx`, `card.md`, `calibration.json`,
        `metrics.json` and `predictions.jpg`.

    Raises:
        ExportRefusedError: A gate refused; nothing was written.
        training.datasets.DatasetError: Unusable validation data; likewise.
    """
    destination = order.out / order.name / order.version
    if (destination / MODEL_FILE).exists() and not order.replace:
        raise ExportRefusedError(
            f"{destination} holds a model already; count the version up, or say --replace"
        )
    run = read_run(order.run_dir)
    samples = choose_samples(
        order.validation_dir,
        order.groups,
        group_pattern=order.group_pattern or group_pattern_for(run.config, order.validation_dir),
    )
    external = _read_external(order, run)
    measured = [*samples, *(sample for group in external.values() for sample in group)]
    check_held_out(run, measured)
    check_contents_held_out(
        [
            sample
            for found in find_trained_samples(
                run, training_folders(run, _data_root(order, run))
            ).values()
            for sample in found
        ],
        measured,
    )
    # Filled in before the long work, so that a bad name or version is refused at once.
    draft = build_contract(
        run, name=order.name, version=order.version, description=order.description
    )
    if order.intervals is not None:
        draft = draft.model_copy(update={"count_interval": read_intervals(order.intervals)})
    with _staging(order.out) as staging:
        _make(
            staging,
            order,
            run=run,
            draft=draft,
            samples=samples,
            external=external,
            console=console,
        )
        destination.mkdir(parents=True, exist_ok=True)
        _remove_earlier(destination)
        for path in sorted(staging.iterdir(), key=lambda path: path.name == _CANDIDATE):
            path.replace(destination / (MODEL_FILE if path.name == _CANDIDATE else path.name))
    return destination


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier model of this version left and this release does not write.

    The service refuses a variant that was made of another `model.onnx`, and with it the whole
    folder, on processors that it suits; figures of the earlier model would pass for the new one's.
    """
    for pattern in ("model.*.onnx", "metrics_*.json"):
        for path in folder.glob(pattern):
            path.unlink()


def _read_external(order: ReleaseOrder, run: TrainedRun) -> dict[str, list[Sample]]:
    """Read the external data sets, by the names that their figures are filed under."""
    external: dict[str, list[Sample]] = {}
    for folder in order.external_dirs:
        name = folder.resolve().name
        if name in external:
            raise ExportRefusedError(
                f"two external folders are named {name}: their figures would overwrite each other"
            )
        external[name] = choose_samples(
            folder, None, group_pattern=group_pattern_for(run.config, folder)
        )
    return external


def check_held_out(run: TrainedRun, samples: Sequence[Sample]) -> None:
    """Refuse to measure a model on what it has learnt from.

    Raises:
        ExportRefusedError: A sample is in the run's training split.
    """
    leaked = sorted({sample.stem for sample in samples} & run.trained_stems())
    if leaked:
        raise ExportRefusedError(
            f"{len(leaked)} of {len(samples)} images were trained on, first {leaked[0]}: choose "
            "held-out patients with --groups"
        )


def check_contents_held_out(trained: Sequence[Sample], samples: Sequence[Sample]) -> None:
    """Refuse to measure a model on a copy, byte by byte, of an image that it has learnt from.

    Args:
        trained: The training images, as far as they are at hand.
        samples: What the model is to be measured on.

    Raises:
        ExportRefusedError: A sample is such a copy, whatever its name.
    """
    digests = {_digest(sample): sample for sample in trained}
    for sample in samples:
        known = digests.get(_digest(sample))
        if known is not None:
            raise ExportRefusedError(
                f"{sample.image_path} is {known.image_path.name}, which was trained on, under "
                "another name: measure on patients that nothing was learnt from"
            )


def _digest(sample: Sample) -> bytes:
    return hashlib.sha256(sample.image_path.read_bytes()).digest()


def _data_root(order: ReleaseOrder, run: TrainedRun) -> Path:
    """Where relative paths of the run's data start: beside the validation folder, or as trained."""
    if order.data_root is not None:
        return order.data_root
    beside = order.validation_dir.resolve().parent
    return beside if training_folders(run, beside) else recorded_data_root(run.folder)


def _make(
    staging: Path,
    order: ReleaseOrder,
    *,
    run: TrainedRun,
    draft: ModelContract,
    samples: Sequence[Sample],
    external: dict[str, list[Sample]],
    console: Console,
) -> None:
    """Do the work, in the staging folder."""
    # TensorFlow takes ten seconds and more to load: not before every cheap refusal is past.
    with quiet_standard_error():
        from export.convert import convert, load_model  # noqa: PLC0415  see above
        from export.half_weights import round_weights, store_in_half  # noqa: PLC0415  see above

    candidate = staging / _CANDIDATE
    console.print(f"converting [bold]{run.model_path}[/]")
    model = load_model(run.model_path)
    if order.half_weights:
        round_weights(model)
    proto = convert(model)
    if order.half_weights:
        share = store_in_half(proto)
        console.print(f"{share:.1%} of the weights are rounded to float16 and stored so")
        draft = draft.model_copy(update={"weight_storage": "float16"})
    session = _stamp(proto, draft, candidate)

    parity = check_parity(model, session, [sample.read()[0] for sample in samples[:8]])
    console.print(
        f"equals Keras within {parity.max_difference} of 255 on {parity.tiles} tiles "
        f"({parity.differing_share:.4%} of the pixels differ), {candidate.stat().st_size:,} bytes"
    )
    del model

    images = run_network(session, _track(samples, "running the network", console))
    calibration = calibrate(
        images,
        mpp=draft.input.mpp,
        progress=lambda grid: _track(grid, "trying thresholds", console),
    )
    check_not_blank([image.maps for image in images], calibration.pixels, calibration.images)
    _show_calibration(calibration, console)

    verified = draft.model_copy(
        update={
            "separation": calibration.separation,
            "verification": VerificationSpec(
                max_difference=parity.max_difference, tiles=parity.tiles, against=parity.against
            ),
            "quality_reference": _quality_reference(session, order, run, calibration, console),
        }
    )
    segmenter = Segmenter(_stamp(proto, verified, candidate))
    role = ", ".join(calibration.groups)
    evaluations = [
        evaluate(
            segmenter,
            samples,
            dataset=order.validation_dir.resolve().name,
            split=f"{CALIBRATED_ON}: {role}",
        )
    ]
    evaluations += [
        evaluate(segmenter, others, dataset=name, split="external, all images, not trained on")
        for name, others in external.items()
    ]
    for evaluation in evaluations:
        print_table(evaluation, console)
    final = verified.model_copy(
        update={"metrics": tuple(evaluation.entry() for evaluation in evaluations)}
    )
    released = _stamp(proto, final, candidate)
    # The service holds every provider and precision to what the verified file makes of a real tile.
    write_golden(staging, samples[0].read()[0], released.run, final.input.divisor)
    calibration.write(staging / "calibration.json")
    write_metrics(evaluations[0], staging / "metrics.json")
    for evaluation in evaluations[1:]:
        write_metrics(evaluation, staging / f"metrics_{evaluation.dataset}.json")
    write_picture(evaluations[0], segmenter, samples, staging / "predictions.jpg")
    write_card(
        staging / "card.md",
        final,
        run=run,
        calibration=calibration,
        evaluations=evaluations,
        commands=order.commands,
    )


def _quality_reference(
    session: ModelSession,
    order: ReleaseOrder,
    run: TrainedRun,
    calibration: Calibration,
    console: Console,
) -> dict[str, float] | None:
    """Learn the flags' reference from the run's training images, or say that there are none."""
    root = _data_root(order, run)
    sources = choose_training_samples(run, training_folders(run, root))
    values = learn_quality_reference(
        session,
        calibration.separation,
        sources,
        progress=lambda samples: _track(samples, "learning what is usual", console),
        home=order.validation_dir.resolve().name,
    )
    images = sum(map(len, sources.values()))
    if values:
        console.print(f"quality flags compare with {images} training images under {root}")
    else:
        console.print(
            f"[yellow]no training image found under {root}: the model is released without a "
            "reference, and most quality flags will not be assessed; see --data-root[/]"
        )
    return values or None


def _stamp(proto: "onnx.ModelProto", contract: ModelContract, path: Path) -> ModelSession:
    """Write graph and contract, and load them as the service does."""
    check_contract(contract.to_metadata())
    from export.onnx_file import write  # noqa: PLC0415  loads onnx

    write(proto, contract, path)
    return ModelSession.load(path, provider="cpu")


def _show_calibration(calibration: Calibration, console: Console) -> None:
    chosen = calibration.chosen
    console.print(
        f"thresholds: probability {chosen.probability_threshold:g}, seed "
        f"{chosen.seed_threshold:g}, least area {chosen.min_area_um2:g} um2, least mean "
        f"probability {chosen.min_mean_probability:g} (Dice {chosen.dice:.3f}, "
        f"F1@0.5 {chosen.f1:.3f}, count bias {chosen.count_bias:+.1%})"
    )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder on the destination's file system that never outlives the work."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out, prefix=".export-"))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made and not any(out.iterdir()):
            out.rmdir()


def _track(items: Sequence[_Item], title: str, console: Console) -> Iterator[_Item]:
    yield from track(items, description=title, console=console, transient=True)
