"""The commands that work on released models: variants, flags' reference, results, comparison."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import track

from export.arguments import (
    DataDir,
    GroupPattern,
    Groups,
    ModelFile,
    RunDir,
    refusals_without_traceback,
)
from export.errors import ExportRefusedError
from export.evaluate import choose_samples, evaluate
from export.paired import compare as compare_files
from export.paired import print_paired
from export.quality_reference import (
    choose_training_samples,
    learn_quality_reference,
    training_folders,
)
from export.seen import print_seen
from service.inference.session import ModelSession
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter
from training.datasets import DEFAULT_GROUP_PATTERN

WORSE: Final = 3
"""Exit status of `compare` for a file that counts worse; 1 is a refusal and 2 a wrong call."""


def quantize(
    model_file: ModelFile,
    *,
    calibration: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Annotated images that the model was trained on; the ranges come from them.",
        ),
    ],
    calibration_groups: Annotated[
        str | None, typer.Option(help="Only these patients of it; see --groups.")
    ] = None,
    validation: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Annotated images to judge on."),
    ],
    groups: Groups = None,
    group_pattern: GroupPattern = DEFAULT_GROUP_PATTERN,
) -> None:
    """Make int8 and fp16 variants, try bf16 on OpenVINO, and keep what is accurate enough."""
    from export.quantize import QuantizeOrder  # noqa: PLC0415  loads onnxruntime's quantiser
    from export.quantize import quantize as reduce  # noqa: PLC0415  likewise

    with refusals_without_traceback():
        reduce(
            QuantizeOrder(
                model_file=model_file,
                calibration_dir=calibration,
                calibration_groups=calibration_groups,
                validation_dir=validation,
                groups=groups,
                group_pattern=group_pattern,
            ),
            Console(),
        )


def reference(
    model_file: ModelFile,
    run_dir: RunDir,
    data_root: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_ROOT",
            exists=True,
            file_okay=False,
            help="Where the run's training folders lie.",
        ),
    ],
) -> None:
    """Learn the quality flags' reference anew; graph, thresholds and figures stay as they are."""
    from export.contract import read_run  # noqa: PLC0415  loads TensorFlow's tools
    from export.onnx_file import read, restamp  # noqa: PLC0415  loads onnx

    console = Console()
    with refusals_without_traceback():
        run = read_run(run_dir)
        _, contract = read(model_file)
        if contract.training.config_sha256 != run.config_sha256:
            raise ExportRefusedError(f"{model_file} was not made by the run {run_dir}")
        sources = choose_training_samples(run, training_folders(run, data_root))
        values = learn_quality_reference(
            ModelSession.load(model_file, provider="cpu"),
            contract.separation,
            sources,
            progress=lambda items: track(items, "learning", console=console, transient=True),
            # The first figures are those of the validation patients.
            home=contract.metrics[0].dataset if contract.metrics else None,
        )
        if not values:
            raise ExportRefusedError(f"no training image of {run_dir} lies under {data_root}")
        restamp(model_file, contract.model_copy(update={"quality_reference": values}))
    images = sum(map(len, sources.values()))
    console.print(f"{model_file} compares with {images} training images, by {len(values)} numbers")


def report(
    runs_dir: Annotated[
        Path,
        typer.Argument(metavar="RUNS_DIR", exists=True, file_okay=False, help="Run folders."),
    ],
    models_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODELS_DIR...",
            exists=True,
            file_okay=False,
            help="Folders of released models, the one with the default model first.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("docs/results"),
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Validation data, for pictures of two fields."
        ),
    ] = None,
    ablations: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="TOML list of runs to compare."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=0, help="Timed runs of each model.")] = 5,
) -> None:
    """Rebuild the results page: all models side by side, with plots and pictures."""
    from export.results import ResultsOrder, write_results  # noqa: PLC0415  loads matplotlib

    order = ResultsOrder(
        runs_dir=runs_dir,
        models_dirs=tuple(models_dirs),
        out=out,
        data=data,
        ablations=ablations,
        repeats=repeats,
        command=shlex.join(["python", "-m", "export", *sys.argv[1:]]),
    )
    with refusals_without_traceback():
        written = write_results(order)
    Console().print(f"wrote {', '.join(path.name for path in written)} into [bold]{out}[/]")


def compare(
    old: Annotated[
        Path, typer.Argument(metavar="OLD.onnx", exists=True, dir_okay=False, help="File in use.")
    ],
    new: Annotated[
        Path,
        typer.Argument(
            metavar="NEW.onnx", exists=True, dir_okay=False, help="File that may replace it."
        ),
    ],
    data_dir: DataDir,
    groups: Groups = None,
    group_pattern: GroupPattern = DEFAULT_GROUP_PATTERN,
    out: Annotated[
        Path | None, typer.Option(help="Write comparison.json into this folder.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Resolution of the images, um/px; the models' by default.")
    ] = None,
) -> None:
    """Does NEW count better than OLD, on patients that neither was trained or tuned on?

    Both run through the service's own segmentation, each with its own thresholds, on the same
    images. Exit status 0 for "better" and "no difference shown", 3 for "worse".
    """
    console = Console()
    options = SegmentOptions(mpp=mpp)
    with refusals_without_traceback():
        samples = choose_samples(data_dir, groups, group_pattern=group_pattern)
        sessions = [ModelSession.load(path) for path in (old, new)]
        if sessions[0].digest == sessions[1].digest:
            raise ExportRefusedError(f"{old} and {new} are the same file; name two")
        evaluations = [
            evaluate(
                Segmenter(session),
                samples,
                dataset=data_dir.resolve().name,
                split=f"groups {groups}" if groups else "all images",
                options=options,
                progress=lambda items: track(items, "segmenting", console=console, transient=True),
            )
            for session in sessions
        ]
        try:
            paired = compare_files(evaluations[0], evaluations[1])
        except ValueError as error:
            raise ExportRefusedError(str(error)) from error
    names = [f"{s.contract.name} {s.contract.version}" for s in sessions]
    parts = {role: each.seen for role, each in zip(("old", "new"), evaluations, strict=True)}
    print_paired(paired, names[0], names[1], console)
    for role, found in parts.items():
        print_seen(role, found, console)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        document = {
            **paired.document(),
            "seen": parts,
            "models": {"old": evaluations[0].model, "new": evaluations[1].model},
            "counts": [
                {
                    "stem": one.stem,
                    "group": one.group,
                    "annotated": one.instances.truth_count,
                    "old": one.instances.predicted_count,
                    "new": other.instances.predicted_count,
                }
                for one, other in zip(evaluations[0].images, evaluations[1].images, strict=True)
            ],
        }
        text = json.dumps(document, indent=2) + "\n"
        (out / "comparison.json").write_text(text, encoding="utf-8")
        console.print(f"wrote {out / 'comparison.json'}", soft_wrap=True)
    if paired.verdict == "worse":
        raise typer.Exit(WORSE)
