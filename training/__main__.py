"""`python -m training`: train a model, resume a run, judge a model."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any

# Before any backend starts: its banners would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from training.config import (
    AugmentationConfig,
    DataSource,
    TrainingConfig,
    load_config,
    with_hold_out,
)
from training.datasets import DatasetError
from training.quiet import quiet_standard_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Train nuclei-segmentation U-Nets in Keras 3.

    [bold]python -m training fit RECIPE.toml --data-root DIR --run-dir runs/mine[/bold] trains;
    [bold]python -m training resume runs/mine[/bold] goes on after a kill;
    [bold]python -m training evaluate runs/mine DATA --groups 'tnbc_p0[78]'[/bold] judges.
    Then [bold]python -m export model --help[/bold] tells how to make the ONNX file that the
    service runs.

    The backend is Keras' own choice: KERAS_BACKEND=tensorflow (default), torch or jax.""",
    rich_markup_mode="rich",
)
console = Console()

DataRoot = Annotated[
    Path, typer.Option(help="Where the relative paths of a recipe (data, weights) start.")
]


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
) -> None:
    """Train a model from a recipe."""
    overrides: dict[str, Any] = {"architecture": architecture, "epochs": epochs, "seed": seed}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if encoder_weights is not None:
        overrides["encoder_weights"] = None if encoder_weights == "none" else encoder_weights
    config = load_config(recipe, overrides)
    if hold_out:
        config = with_hold_out(config, hold_out)
    _run(config, run_dir, data_root, resume=False)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of the interrupted run.")],
    data_root: DataRoot = Path(),
) -> None:
    """Go on with a run that was interrupted, exactly as it would have gone on."""
    _run(load_config(run_dir / "config.json"), run_dir, data_root, resume=True)


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="A run folder with model.keras.")],
    data: Annotated[Path, typer.Argument(help="A folder of annotated images.")],
    out: Annotated[Path | None, typer.Option(help="Default: RUN_DIR/evaluation.")] = None,
    groups: Annotated[
        list[str] | None, typer.Option(help="Shell patterns of the patients; all by default.")
    ] = None,
) -> None:
    """Judge a trained model on annotated images: figures, ROC, precision-recall, a picture."""
    with quiet_standard_error():
        from training.evaluate import evaluate_run  # noqa: PLC0415  starts the backend

    figures = evaluate_run(run_dir, data, out or run_dir / "evaluation", groups or ["*"])
    for name, value in figures.items():
        console.print(f"{name:>20}  {value:.4f}")


def _run(config: TrainingConfig, run_dir: Path, data_root: Path, *, resume: bool) -> None:
    with quiet_standard_error():
        from training.fit import fit as train  # noqa: PLC0415  starts the backend

    model = train(config, run_dir, data_root=data_root, resume=resume)
    console.print(f"best model: {model}")


def _nearest_field(name: str) -> str:
    fields = [*TrainingConfig.model_fields, *DataSource.model_fields]
    fields += AugmentationConfig.model_fields
    nearest = difflib.get_close_matches(name, fields, n=1)
    return (
        f"; did you mean {nearest[0]}?" if nearest else "; remove it (training/config.py has all)"
    )


def _complain(where: str, message: str) -> None:
    # Paths stay whole, and brackets in them are no markup.
    console.print(f"[red]{escape(where)}[/red]: {escape(message)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake is one line, not a traceback."""
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "configuration"
            message = problem["msg"]
            if problem["type"] == "extra_forbidden":
                message = f"unknown field{_nearest_field(str(problem['loc'][-1]))}"
            _complain(where, message)
        raise SystemExit(2) from None
    except (DatasetError, ValueError, FileNotFoundError, FloatingPointError) as error:
        _complain("error", str(error))
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
