"""The command line: `python -m service [serve]`, `segment`, `verify`, `keys`, `audit`..."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from service.administration import add_commands
from service.api.parameters import SegmentParameters
from service.app import create_app, open_repository
from service.doctor import examine, print_report
from service.errors import KaryonError
from service.files import check_results, check_stems, segment_file
from service.images.decode import ImageLimits
from service.provenance_commands import replay, verify
from service.segmenter import Segmenter
from service.server import run_server
from service.settings import Settings, load_settings
from service.telemetry import configure_logging


class _ServeByDefault(TyperGroup):
    """`python -m service --port 9000` means `python -m service serve --port 9000`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ServeByDefault,
    help=(
        "Karyon segments and counts nuclei in H&E images. Without a command it serves"
        " http://127.0.0.1:8000; every option of `serve` is also a variable `KARYON_<OPTION>`."
    ),
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

ModelsDir = Annotated[
    Path | None,
    typer.Option(help="Model repository, <name>/<version>/model.onnx; default: the embedded one."),
]
Provider = Annotated[
    Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] | None,
    typer.Option(help="Execution provider; one that is named must run. Default: the best."),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "int8", "fp16"] | None,
    typer.Option(help="What models compute in. Default: the fastest that each model accepts."),
]
Threads = Annotated[
    int | None, typer.Option(min=0, help="Threads of one inference; 0: all processors.")
]


def _settings(**options: object) -> Settings:
    """Merge options over the environment, or end with a sentence that names what is wrong."""
    try:
        return load_settings(options)
    except ValidationError as error:
        print(_sentences(error, "Setting"), file=sys.stderr)
    except ValueError as error:
        print(error, file=sys.stderr)
    raise typer.Exit(2)


def _sentences(error: ValidationError, what: str) -> str:
    """Say what is wrong with each value, one a line, without pydantic's own lines around it."""
    return "\n".join(
        f"{what} {'_'.join(str(step) for step in detail['loc'])}: {detail['msg']}"
        for detail in error.errors()
    )


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    models_dir: ModelsDir = None,
    default_model: Annotated[
        str | None, typer.Option(help="Model for requests that name none.")
    ] = None,
    provider: Provider = None,
    precision: Precision = None,
    threads: Threads = None,
    workers: Annotated[int | None, typer.Option(help="Requests worked on at once.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Most bytes of a body.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Most pixels of an image.")] = None,
    drain_delay_s: Annotated[
        float | None, typer.Option(help="Seconds not ready before shutting down.")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="Least severity.")
    ] = None,
    log_format: Annotated[
        Literal["auto", "json", "console"] | None, typer.Option(help="auto: console on a terminal.")
    ] = None,
) -> None:
    """Serve over HTTP (the default command). Ends cleanly on SIGTERM and Ctrl-C."""
    settings = _settings(
        host=host,
        port=port,
        models_dir=models_dir,
        default_model=default_model,
        provider=provider,
        precision=precision,
        threads=threads,
        workers=workers,
        max_waiting=max_waiting,
        max_body_bytes=max_body_bytes,
        max_pixels=max_pixels,
        drain_delay_s=drain_delay_s,
        log_level=log_level,
        log_format=log_format,
    )
    configure_logging(settings)
    raise typer.Exit(run_server(create_app(settings), settings))


@app.command()
def segment(
    *,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    model: Annotated[str | None, typer.Option(help="Model, as name or name:version.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Nucleus probability, 0 to 1; default: the model's."),
    ] = None,
    min_area_um2: Annotated[
        float | None, typer.Option(min=0.0, help="Least nucleus area in um2.")
    ] = None,
    min_area_px: Annotated[
        float | None, typer.Option(min=0.0, help="Least nucleus area in pixels.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(min=0.05, max=5.0, help="Micrometres a pixel of the images.")
    ] = None,
    models_dir: ModelsDir = None,
    provider: Provider = None,
    precision: Precision = None,
    threads: Threads = None,
) -> None:
    """Segment image files: <stem>.json, <stem>_mask.png, <stem>_labels.png, <stem>_overlay.png.

    An image that is refused does not stop the others; the command then lists the failures and ends
    with status 1.
    """
    settings = _settings(
        models_dir=models_dir, provider=provider, precision=precision, threads=threads
    )
    console = Console(stderr=True)
    try:
        check_stems(images)
        check_results(images, out)
        segmenter = Segmenter(
            open_repository(settings).get(model),
            max_batch_tiles=settings.max_batch_tiles,
            max_pixels=settings.max_pixels,
            test_time_augmentation=settings.test_time_augmentation,
        )
        parameters = SegmentParameters(
            threshold=threshold, min_area_um2=min_area_um2, min_area_px=min_area_px, mpp=mpp
        )
        parameters.check()
        out.mkdir(parents=True, exist_ok=True)
    except (KaryonError, OSError) as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except ValidationError as error:
        print(_sentences(error, "Option"), file=sys.stderr)
        raise typer.Exit(2) from error
    limits = ImageLimits(max_pixels=settings.max_pixels, min_side_px=settings.min_side_px)
    failures: list[tuple[Path, str]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # On a terminal the bar and the counts share the screen, and rich keeps them apart; counts that
    # go to a file or a pipe are not its business.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("Segmenting", total=len(images))
        for path in images:
            try:
                count = segment_file(path, out, segmenter, parameters, limits)
                print(f"{path}\t{count} nuclei")
            except (KaryonError, OSError) as error:
                failures.append((path, str(error)))
            progress.advance(task)
    for path, reason in failures:
        print(f"FAILED {path}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(images)} images failed.", file=sys.stderr)
        raise typer.Exit(1)


app.command()(verify)
app.command()(replay)


@app.command()
def doctor(
    *,
    models_dir: ModelsDir = None,
    provider: Provider = None,
    precision: Precision = None,
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what this machine runs models on, prove each model, and end with a plain verdict.

    Ends with status 1 where the service would not start with the same settings.
    """
    settings = _settings(
        models_dir=models_dir, provider=provider, precision=precision, threads=threads
    )
    report = examine(settings, open_repository)
    if json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        sys.stdout.buffer.write(orjson.dumps(report, option=options))
    else:
        print_report(report, Console())
    raise typer.Exit(0 if report.healthy else 1)


add_commands(app)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document as JSON; no model is loaded."""
    document = create_app(_settings(models_dir=Path())).openapi()
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(document, option=options))


def main() -> None:
    """Entry point of `python -m service` and of `karyon-serve`."""
    app(prog_name="karyon-serve" if sys.argv[0].endswith("karyon-serve") else "python -m service")


if __name__ == "__main__":
    main()
