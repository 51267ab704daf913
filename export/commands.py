"""The commands that work on released models: variants, the flags' reference, the results page."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from export.arguments import Groups, ModelFile, RunDir, refusals_without_traceback
from export.errors import ExportRefusedError
from export.quality_reference import (
    choose_training_samples,
    learn_quality_reference,
    training_folders,
)
from service.inference.session import ModelSession


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
