"""`python -m training`: look at data, train a model, resume a run, judge and compare."""

import os
import webbrowser
from pathlib import Path
from typing import Annotated, Any

# Before any backend starts: its banners would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from training.comparison import compare_runs, print_comparison, write_comparison
from training.config import TrainingConfig, load_config, with_hold_out
from training.datasets import DEFAULT_GROUP_PATTERN, DatasetError
from training.preview import check_data, print_preview
from training.quiet import quiet_standard_error
from training.run_folder import check_folder, read_configuration, recorded_data_root
from training.spelling import explain

NOT_COMPARABLE = 1
"""Exit status of `compare` where splits or data differ; 2 is a mistake, as everywhere."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Train nuclei-segmentation U-Nets in Keras 3.

    [bold]A first run, three commands[/bold]

    [cyan]python -m training check mydata[/cyan]
    Images, nuclei, patients, doubts; mydata-preview.png shows the outlines.

    [cyan]python -m training fit recipe.toml --data-root . --run-dir runs/mine --open[/cyan]
    Trains; copy recipe.toml from training/recipes/default.toml and name your folder in it.
    At the end runs/mine/report.html opens: curves, worst and best tiles, what to do next.

    [cyan]python -m export model runs/mine --validation mydata --groups 'p0[78]'
    --name mine --version 1.0.0 --out models[/cyan]
    Makes the file that the service runs, and measures its counts.

    [bold]Afterwards[/bold]

    [cyan]python -m training resume runs/mine[/cyan] goes on after a kill or Ctrl-C.

    [cyan]python -m training evaluate runs/mine mydata --groups 'p0[78]'[/cyan] judges whole images.

    [cyan]python -m training compare runs/first runs/mine[/cyan] puts runs side by side.

    [cyan]python -m export compare OLD.onnx NEW.onnx mydata-test[/cyan]
    tells whether the new file counts better, on patients that neither was made with.

    The backend is Keras' own choice: KERAS_BACKEND=tensorflow (default), torch or jax.""",
    rich_markup_mode="rich",
)
console = Console()

DataRoot = Annotated[
    Path, typer.Option(help="Where the relative paths of a recipe (data, weights) start.")
]
RecordedDataRoot = Annotated[
    Path | None,
    typer.Option(help="Where the recipe's data lies; where it lay in training by default."),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A folder of annotated images.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG to write; DATA-preview.png here by default.")
    ] = None,
    group_pattern: Annotated[
        str, typer.Option(help="Regular expression from file stem to patient, as in a recipe.")
    ] = DEFAULT_GROUP_PATTERN,
) -> None:
    """Look at annotated images before anything is trained: how many, whose, what is doubtful."""
    preview = check_data(data, group_pattern)
    path = out or Path(f"{data.resolve().name}-preview.png")
    preview.write_sheet(path)
    print_preview(preview, console)
    console.print(f"look at the outlines: {path}", highlight=False, soft_wrap=True)
    if preview.faults:
        raise typer.Exit(2)


@app.command()
def fit(
    recipe: Annotated[Path, typer.Argument(help="A .toml or .json configuration.")],
    run_dir: Annotated[Path, typer.Option(help="Folder to write; must not hold a run.")],
    data_root: DataRoot = Path(),
    architecture: Annotated[str | None, typer.Option(help="Over the recipe's.")] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Validate on these patients (shell patterns) in place of the recipe's; may be "
            "repeated. For leave-patients-out cross-validation."
        ),
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="'imagenet', 'none' or a weights file, over the recipe's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Over the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Over the recipe's.")] = None,
    open_report: Open = False,
) -> None:
    """Train a model from a recipe; at the end RUN_DIR/report.html tells how it went.

    Example: python -m training fit recipe.toml --data-root . --run-dir runs/mine --open
    """
    overrides: dict[str, Any] = {"architecture": architecture, "epochs": epochs, "seed": seed}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if encoder_weights is not None:
        overrides["encoder_weights"] = None if encoder_weights == "none" else encoder_weights
    config = load_config(recipe, overrides)
    if hold_out:
        config = with_hold_out(config, hold_out)
    _run(config, run_dir, data_root, resume=False, open_report=open_report)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of the interrupted run.")],
    data_root: RecordedDataRoot = None,
    open_report: Open = False,
) -> None:
    """Go on with a run that was interrupted, exactly as it would have gone on."""
    config = read_configuration(run_dir)
    root = data_root or recorded_data_root(run_dir)
    _run(config, run_dir, root, resume=True, open_report=open_report)


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="A run folder with model.keras.")],
    data: Annotated[Path, typer.Argument(help="A folder of annotated images.")],
    out: Annotated[Path | None, typer.Option(help="Default: RUN_DIR/evaluation.")] = None,
    groups: Annotated[
        list[str] | None, typer.Option(help="Shell patterns of the patients; all by default.")
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression from file stem to patient; the recipe's by default."),
    ] = None,
) -> None:
    """Judge a trained model on annotated images: figures, ROC, precision-recall, a picture."""
    with quiet_standard_error():
        from training.evaluate import evaluate_run  # noqa: PLC0415  starts the backend

    figures = evaluate_run(
        run_dir,
        data,
        out or run_dir / "evaluation",
        groups or ["*"],
        group_pattern=group_pattern,
    )
    for name, value in figures.items():
        console.print(f"{name:>20}  {value:.4f}")


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run folder with a finished epoch.")],
    data_root: RecordedDataRoot = None,
    open_report: Open = False,
) -> None:
    """Write RUN_DIR/report.html anew: curves, worst and best tiles, what to do next."""
    _report(run_dir, data_root, open_report=open_report)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, the earliest first.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("comparison.html"),
    open_report: Open = False,
) -> None:
    """Put runs side by side: figures, differences, what was configured differently, curves.

    Exit status 0, or 1 where the runs were judged on different data and are not comparable.
    """
    comparison = compare_runs(runs)
    print_comparison(comparison, console)
    write_comparison(comparison, out)
    _show(out, open_report=open_report)
    if comparison.doubts:
        raise typer.Exit(NOT_COMPARABLE)


def _run(
    config: TrainingConfig, run_dir: Path, data_root: Path, *, resume: bool, open_report: bool
) -> None:
    # A folder that cannot be used is said at once, not after the backend has started.
    check_folder(config, run_dir, resume=resume)
    with quiet_standard_error():
        from training.fit import fit as train  # noqa: PLC0415  starts the backend

    try:
        model = train(config, run_dir, data_root=data_root, resume=resume)
    except KeyboardInterrupt:
        console.print(
            f"stopped; `python -m training resume {run_dir}` goes on from the last finished epoch",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    console.print(f"best model: {model}", soft_wrap=True)
    _report(run_dir, data_root, open_report=open_report)


def _report(run_dir: Path, data_root: Path | None, *, open_report: bool) -> None:
    with quiet_standard_error():
        from training.run_report import report_run  # noqa: PLC0415  starts the backend

    _show(report_run(run_dir, data_root), open_report=open_report)


def _show(page: Path, *, open_report: bool) -> None:
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if open_report:
        webbrowser.open(page.resolve().as_uri())


def _complain(where: str, message: str) -> None:
    # Paths stay whole, and brackets in them are no markup.
    console.print(f"[red]{escape(where)}[/red]: {escape(message)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake is one line, not a traceback."""
    try:
        app()
    except ValidationError as error:
        for where, message in explain(error):
            _complain(where, message)
        raise SystemExit(2) from None
    except (DatasetError, ValueError, FloatingPointError) as error:
        _complain("error", str(error))
        raise SystemExit(2) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain("error", f"{where}{error.strerror or error}; free space, mend rights, try again")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
