"""`python -m export`: make, check and measure model files."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

# Before anything can import TensorFlow: it speaks from C++ otherwise. Only TensorFlow's own graphs
# can be converted, whatever backend the model was trained on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import typer
from rich.console import Console
from rich.progress import track

from export.arguments import (
    DataDir,
    GroupPattern,
    Groups,
    ModelFile,
    RunDir,
)
from export.arguments import refusals_without_traceback as _refusals_without_traceback
from export.calibrate import calibrate as choose_thresholds
from export.calibrate import run_network
from export.commands import compare, quantize, reference, report
from export.evaluate import choose_samples, write_metrics
from export.evaluate import evaluate as measure
from export.intervals import calibrate_intervals, read_counts
from export.release import ReleaseOrder, release
from export.report import print_table, write_picture
from export.seen import print_seen, seen
from service.images.decode import ImageLimits, decode_image
from service.inference.golden import GOLDEN_FILE, write_golden
from service.inference.session import ModelSession
from service.segmentation.augmentation import TestTimeAugmentation
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter
from training.datasets import DEFAULT_GROUP_PATTERN
from training.quiet import quiet_standard_error
from training.sources import group_pattern_for

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="""From a trained run to one self-describing ONNX file, and its figures.

Start with `python -m export model RUN_DIR --validation DATA_DIR --groups 07,08 --name
efficientnetv2b0_unet --version 1.1.0 --out models`: it converts, compares with Keras pixel by
pixel, chooses thresholds, measures through the service's own code and writes the card, or it
refuses and writes nothing. `python -m export evaluate MODEL.onnx DATA_DIR --out DIR` measures any
model file on your own annotated images and needs no TensorFlow. `python -m export compare OLD.onnx
NEW.onnx DATA_DIR` tells whether a new file counts better than the one in use.""",
)


@app.command()
def model(
    run_dir: RunDir,
    *,
    validation: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Annotated images to calibrate on."),
    ],
    name: Annotated[str, typer.Option(help="Name that callers will choose the model by.")],
    version: Annotated[str, typer.Option(help="Semantic version of the weights, as 1.0.0.")],
    groups: Groups = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression from file stem to patient; the recipe's by default."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of models to write to.")] = Path("models"),
    external: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="Measure on this too; may be repeated."),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Where the run's training folders lie, which quality flags are set on; by "
            "default where --validation's folder lies, or where they lay in training.",
        ),
    ] = None,
    intervals: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="`intervals.json` of `export intervals`: states an interval of every count.",
        ),
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="One or two sentences for the contract.")
    ] = None,
    half_weights: Annotated[
        bool,
        typer.Option(
            "--half-weights",
            help="Round large weights to float16 and store them so: half the file, still computed "
            "in float32. The run's own model stays as it is.",
        ),
    ] = False,
    replace: Annotated[bool, typer.Option(help="Overwrite this version if it exists.")] = False,
) -> None:
    """Release a trained run: convert, verify, calibrate, evaluate, describe."""
    order = ReleaseOrder(
        run_dir=run_dir,
        validation_dir=validation,
        groups=groups,
        group_pattern=group_pattern,
        name=name,
        version=version,
        out=out,
        external_dirs=tuple(external or ()),
        data_root=data_root,
        intervals=intervals,
        description=description,
        half_weights=half_weights,
        replace=replace,
        commands=_commands(run_dir),
    )
    console = Console()
    with _refusals_without_traceback():
        folder = release(order, console)
    console.print(f"wrote [bold]{folder}[/]")


@app.command()
def verify(
    model_file: ModelFile, run_dir: RunDir, data_dir: DataDir, groups: Groups = None
) -> None:
    """Compare a model file with the trained model it came from, pixel by pixel."""
    with quiet_standard_error():
        from export.contract import read_run  # noqa: PLC0415  loads TensorFlow
        from export.convert import load_model  # noqa: PLC0415  loads TensorFlow
        from export.verify import check_parity  # noqa: PLC0415  loads TensorFlow
    with _refusals_without_traceback():
        run = read_run(run_dir)
        pattern = group_pattern_for(run.config, data_dir)
        samples = choose_samples(data_dir, groups, group_pattern=pattern)
        images = [sample.read()[0] for sample in samples[:8]]
        session = ModelSession.load(model_file, provider="cpu")
        parity = check_parity(load_model(run.model_path), session, images)
    Console().print(
        f"equals {parity.against} within {parity.max_difference} of 255 on {parity.tiles} tiles, "
        f"{parity.differing_share:.4%} of the pixels differ"
    )


@app.command()
def calibrate(
    model_file: ModelFile,
    data_dir: DataDir,
    groups: Groups = None,
    group_pattern: GroupPattern = DEFAULT_GROUP_PATTERN,
    out: Annotated[Path | None, typer.Option(help="Write the whole table here, as JSON.")] = None,
) -> None:
    """Find the thresholds that suit some annotated images; the file itself stays as it is."""
    console = Console()
    with _refusals_without_traceback():
        session = ModelSession.load(model_file, provider="cpu")
        samples = choose_samples(data_dir, groups, group_pattern=group_pattern)
        images = run_network(
            session, track(samples, "running the network", console=console, transient=True)
        )
        calibration = choose_thresholds(
            images,
            mpp=session.contract.input.mpp,
            progress=lambda grid: track(grid, "trying thresholds", console=console, transient=True),
        )
    chosen = calibration.chosen
    console.print(
        f"probability_threshold {chosen.probability_threshold:g}, seed_threshold "
        f"{chosen.seed_threshold:g}, min_area_um2 {chosen.min_area_um2:g}, min_mean_probability "
        f"{chosen.min_mean_probability:g}: Dice {chosen.dice:.3f}, F1@0.5 {chosen.f1:.3f}, "
        f"count bias {chosen.count_bias:+.1%}"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        calibration.write(out)


@app.command()
def golden(
    model_file: ModelFile,
    image: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A real image, to cut a tile from.")
    ],
) -> None:
    """Write golden.npz beside a model file: what the service tests itself against at each load."""
    with _refusals_without_traceback():
        pixels = decode_image(image.read_bytes(), ImageLimits(max_pixels=64_000_000)).pixels
        (model_file.parent / GOLDEN_FILE).unlink(missing_ok=True)
        session = ModelSession.load(model_file, provider="cpu")
        path = write_golden(model_file.parent, pixels, session.run, session.contract.input.divisor)
    Console().print(f"wrote {path}")


@app.command()
def evaluate(
    model_file: ModelFile,
    data_dir: DataDir,
    groups: Groups = None,
    group_pattern: GroupPattern = DEFAULT_GROUP_PATTERN,
    out: Annotated[
        Path | None, typer.Option(help="Write metrics.json and predictions.png into this folder.")
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Resolution of the images, um/px; the model's own by default."),
    ] = None,
    test_time_augmentation: Annotated[
        TestTimeAugmentation,
        typer.Option(help="Average turned and mirrored copies, as the service's setting does."),
    ] = "none",
    thresholds_of: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.onnx",
            exists=True,
            dir_okay=False,
            help="Use the thresholds of this file, which was calibrated on other patients.",
        ),
    ] = None,
) -> None:
    """Measure a model file on annotated images, exactly as the service would serve it."""
    console = Console()
    options = SegmentOptions(mpp=mpp)
    with _refusals_without_traceback():
        samples = choose_samples(data_dir, groups, group_pattern=group_pattern)
        if thresholds_of is not None:
            foreign = ModelSession.load(thresholds_of, provider="cpu").contract
            other = foreign.separation
            options = SegmentOptions(
                mpp=mpp,
                probability_threshold=other.probability_threshold,
                seed_threshold=other.seed_threshold,
                min_area_um2=other.min_area_um2,
                min_mean_probability=other.min_mean_probability,
            )
        segmenter = Segmenter(
            ModelSession.load(model_file), test_time_augmentation=test_time_augmentation
        )
        evaluation = measure(
            segmenter,
            samples,
            dataset=data_dir.resolve().name,
            split=f"groups {groups}" if groups else "all images",
            options=options,
            progress=lambda items: track(items, "segmenting", console=console, transient=True),
        )
        if thresholds_of is not None:
            whose = seen(foreign, {sample.group for sample in samples})
            kept = {**evaluation.seen, "thresholds": whose["thresholds"]}
            evaluation = replace(evaluation, seen=kept)
        print_table(evaluation, console)
        print_seen("model", evaluation.seen, console)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_metrics(evaluation, out / "metrics.json")
            write_picture(evaluation, segmenter, samples, out / "predictions.png", options=options)
            console.print(f"wrote {out / 'metrics.json'} and {out / 'predictions.png'}")


@app.command()
def intervals(
    metrics: Annotated[
        list[Path],
        typer.Argument(
            metavar="METRICS.json...",
            exists=True,
            dir_okay=False,
            help="What `export evaluate` wrote for each model of a cross-validation, on the "
            "patients that the model had not seen.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="File to write, for `export model --intervals`.")],
    level: Annotated[float, typer.Option(min=0.5, max=0.99, help="Nominal coverage.")] = 0.9,
) -> None:
    """Calibrate the interval of a count on held-out patients, and measure how often it holds."""
    with _refusals_without_traceback():
        found = calibrate_intervals(read_counts(metrics), level=level)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.write(out)
    spec, coverage = found.spec, found.coverage
    Console().print(
        f"interval of {level:.0%}: {spec.lower_ratio:g} x count - {spec.allowance:g} to "
        f"{spec.upper_ratio:g} x count + {spec.allowance:g}, from {spec.images} images of "
        f"{spec.patients} patients\n"
        f"leaving out each patient in turn: covered {coverage.images:.1%} of the images "
        f"({coverage.patients:.1%} as a mean over patients), mean width {coverage.mean_width:.1f} "
        f"nuclei, median {coverage.median_relative_width:.0%} of the count\n"
        f"guaranteed whatever images of one patient have in common: {found.guaranteed:.0%}"
    )


for _command in (compare, quantize, reference, report):
    app.command()(_command)


def _commands(run_dir: Path) -> tuple[str, ...]:
    """What a reader of the card would type."""
    run = shlex.quote(str(run_dir))
    return (
        f"python -m training fit config.json --data-root DATA_ROOT --run-dir {run}",
        shlex.join(["python", "-m", "export", *sys.argv[1:]]),
    )


def main() -> None:
    """Entry point of `karyon-export`."""
    app()


if __name__ == "__main__":
    main()
