"""What the commands of `python -m export` have in common: arguments, and how a refusal is shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from export.errors import ExportRefusedError
from service.errors import KaryonError
from training.datasets import DatasetError

ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL.onnx", exists=True, dir_okay=False, help="A model file.")
]
DataDir = Annotated[
    Path,
    typer.Argument(
        metavar="DATA_DIR",
        exists=True,
        file_okay=False,
        help="Annotated images: `images/` with `labels/` or `masks/`, or TNBC as published.",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="Only these patients, comma-separated: how their names end (`07,08`), or shell "
        "patterns (`tnbc_p0[78]`)."
    ),
]
GroupPattern = Annotated[
    str,
    typer.Option(
        help="Regular expression from file stem to patient, as in the recipe: what is in round "
        "brackets is the patient."
    ),
]
RunDir = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR", exists=True, file_okay=False, help="Folder of a finished training run."
    ),
]


@contextmanager
def refusals_without_traceback() -> Iterator[None]:
    """Show what is wrong with the input as one message, exit status 1."""
    try:
        yield
    except (KaryonError, DatasetError) as error:
        _complain("refused" if isinstance(error, ExportRefusedError) else "error", str(error))
        raise typer.Exit(1) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain("error", f"{where}{error.strerror or error}; free space or name another folder")
        raise typer.Exit(1) from error


def _complain(heading: str, message: str) -> None:
    # Paths stay whole, and brackets in them are no markup.
    Console(stderr=True).print(
        f"[bold red]{heading}:[/] {escape(message)}", highlight=False, soft_wrap=True
    )
