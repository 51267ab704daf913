"""`python -m service verify` and `replay`: is this the result that was made, and is it made again?

Both end with 0 where all is well, with 1 where something differs, with 2 where they cannot tell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from service.errors import KaryonError
from service.images.decode import ImageLimits
from service.inference.precision import precision_named
from service.inference.providers import Provider, provider_named
from service.inference.repository import ModelRepository, embedded_models_dir
from service.outputs.report import reported_result
from service.provenance.keys import PUBLIC_KEYS_FOLDER, read_public_keys
from service.provenance.verification import (
    MalformedResultError,
    is_verified,
    read_result,
    verify_result,
)
from service.replay import replay_result
from service.settings import load_settings

ResultFile = Annotated[
    Path,
    typer.Argument(
        metavar="RESULT.json",
        help="A JSON answer, as it was received, or what GET /results/{id} tells of it.",
    ),
]


def verify(
    result: ResultFile,
    *,
    image: Annotated[Path | None, typer.Option(help="The image file it is about.")] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Public keys to trust: a saved /.well-known/karyon-keys.json, or a PEM file;"
            " default: those of this machine's service."
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="`nuclei` and `mask` may have been left out since.")
    ] = False,
) -> None:
    """Check a result against its signed statement, without the service."""
    document = _read(result)
    recorded = _recorded_answer(document)
    try:
        own = load_settings().data_dir / PUBLIC_KEYS_FOLDER
        keys = {} if key is None and not own.is_dir() else read_public_keys(key or own)
        data = None if image is None else image.read_bytes()
    except (KaryonError, OSError, ValueError) as error:
        _cannot(f"Cannot verify: {error}")
    if not keys:
        _cannot("Cannot verify: there is no public key to trust; give --key.")
    checks = verify_result(
        recorded or document, keys, image=data, partial=partial or recorded is not None
    )
    for check in checks:
        typer.echo(f"{check.outcome:<12}{check.name:<11}{check.detail}")
    if not is_verified(checks):
        typer.echo("NOT VERIFIED")
        raise typer.Exit(1)
    if recorded is not None:
        typer.echo("This is the answer within the record; audit verify checks what came after it.")
    typer.echo("verified")


def replay(
    result: ResultFile,
    *,
    image: Annotated[Path, typer.Option(help="The image file it is about.")],
    models_dir: Annotated[
        Path | None, typer.Option(help="Model repository; default: the embedded one.")
    ] = None,
    provider: Annotated[
        Provider | None, typer.Option(help="Execution provider; default: the recorded one.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Threads; 0: all.")] = None,
) -> None:
    """Segment the image again with the same model and parameters, and compare count and labels.

    It runs on the provider and in the precision that the result names: others round differently.
    """
    document = _read(result)
    document = _recorded_answer(document) or document
    try:
        settings = load_settings({"models_dir": models_dir, "threads": threads})
        recorded = reported_result(document)
        repository = ModelRepository.open(
            settings.models_dir or embedded_models_dir(),
            provider=provider or provider_named(recorded.provider),
            precision=precision_named(recorded.precision),
            threads=settings.threads,
        )
        again = replay_result(
            document,
            image.read_bytes(),
            repository,
            limits=ImageLimits(max_pixels=settings.max_pixels, min_side_px=settings.min_side_px),
            max_batch_tiles=settings.max_batch_tiles,
        )
    except (KaryonError, OSError, ValueError) as error:
        _cannot(f"Cannot replay: {error}")
    typer.echo(f"count       recorded {recorded.count}, now {again.count}")
    if again.same_labels is None:
        typer.echo("labels      not checked: the result tells no digest")
    else:
        typer.echo(f"labels      {'the same' if again.same_labels else 'different'}")
    if recorded.provider != again.provider:
        typer.echo(f"provider    recorded {recorded.provider}, now {again.provider}")
    if not again.same_count or again.same_labels is False:
        typer.echo("DIFFERENT")
        raise typer.Exit(1)
    typer.echo("the same")


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_result(path.read_bytes())
    except (OSError, MalformedResultError) as error:
        _cannot(str(error))


def _recorded_answer(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer that a record of `GET /results/{id}` holds; None of another document."""
    answer = document.get("document")
    return answer if isinstance(answer, dict) and "provenance" not in document else None


def _cannot(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(2)
