"""`python -m service keys`, `audit`, `export-reviewed`: what is done beside the running service.

The commands work on the database of the settings, while the service runs or not.
"""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from service.api.auth import SCOPES
from service.errors import KaryonError
from service.images.decode import ImageLimits
from service.records.database import Database
from service.records.keys import ApiKey, create_key, list_keys, revoke_key, rotate_key
from service.records.verification import Verdict, parse_anchor, verify, verify_export
from service.reviewed import audit_export, export_reviewed
from service.settings import load_settings

keys_app = typer.Typer(help="API keys: create, list, revoke, rotate.", no_args_is_help=True)
audit_app = typer.Typer(help="The audit trail: verify.", no_args_is_help=True)

Days = Annotated[float | None, typer.Option(min=0.0, help="Days until it expires; default: never.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line of the service."""
    app.add_typer(keys_app, name="keys")
    app.add_typer(audit_app, name="audit")
    app.command("export-reviewed")(export)


@contextmanager
def _database() -> Iterator[Database]:
    """Open the database of the settings, or end with a sentence that says why not."""
    try:
        settings = load_settings()
        url = settings.database_url
        database = Database.open(
            None if url is None else url.get_secret_value(),
            settings.data_dir,
            migrate=settings.migrate,
        )
    except (KaryonError, ValueError) as error:
        _end(str(error))
    try:
        yield database
    except KaryonError as error:
        _end(str(error))
    finally:
        database.close()


def _end(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise typer.Exit(2)


def _actor() -> str:
    return f"command-line:{getpass.getuser()}"


def _parse_scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",") if scope.strip()]
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        named = f"unknown scope {', '.join(unknown)}" if unknown else "no scope given"
        _end(f"{named}; there are {', '.join(SCOPES)}")
    return scopes


def _show_new(secret: str, key: ApiKey) -> None:
    # The key alone on standard output, so that `KEY=$(... keys create ...)` works.
    print(secret)
    until = f"until {key.expires_utc}" if key.expires_utc else "without an end"
    print(
        f"Key {key.id} of {key.name} for {', '.join(key.scopes)}, {until}. It is shown this once.",
        file=sys.stderr,
    )


@keys_app.command("create")
def create(
    *,
    name: Annotated[str, typer.Option(help="Whose key it is.")] = "unnamed",
    scopes: Annotated[
        str, typer.Option(help=f"Separated by commas: {', '.join(SCOPES)}.")
    ] = "segment,results",
    days: Days = None,
) -> None:
    """Make a key and print it; it cannot be read again."""
    wanted = _parse_scopes(scopes)
    with _database() as database, database.writing() as transaction:
        made = create_key(transaction, name=name[:255], scopes=wanted, days=days, actor=_actor())
    _show_new(*made)


@keys_app.command("list")
def list_all() -> None:
    """List all keys, also those that ended; the keys themselves are not kept."""
    with _database() as database, database.reading() as connection:
        keys = list_keys(connection)
    table = Table("id", "name", "scopes", "state", "created", "expires")
    for key in keys:
        table.add_row(
            key.id, key.name, " ".join(key.scopes), key.state, key.created_utc,
            key.expires_utc or "never",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
) -> None:
    """End a key at once."""
    with _database() as database, database.writing() as transaction:
        revoke_key(transaction, key_id, actor=_actor())
    print(f"Key {key_id} is revoked.", file=sys.stderr)


@keys_app.command("rotate")
def rotate(
    *,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    overlap_days: Annotated[
        float, typer.Option(min=0.0, help="Days for which the old key is still good.")
    ] = 7.0,
    days: Annotated[
        float | None,
        typer.Option(min=0.0, help="Days until it expires; default: as many as the old key's."),
    ] = None,
) -> None:
    """Make a successor of a key, with its name, scopes and days, and let the old one end."""
    with _database() as database, database.writing() as transaction:
        made = rotate_key(transaction, key_id, overlap_days=overlap_days, days=days, actor=_actor())
    _show_new(*made)


@audit_app.command("verify")
def verify_trail(
    *,
    anchor: Annotated[
        str | None,
        typer.Option(help="`sequence:hash` that an earlier run printed, kept elsewhere."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Check this file from GET /audit, not the database.")
    ] = None,
) -> None:
    """Check the audit trail and every result against it; status 1 and a sentence if not sound.

    Keep the head that it prints in another place, and give it as --anchor the next time: then
    nobody can have removed the last rows, or written the trail anew, without being found out.
    """
    verdict: Verdict
    try:
        expected = None if anchor is None else parse_anchor(anchor)
        if export is not None:
            with export.open("rb") as lines:
                verdict = verify_export(lines, expected)
        else:
            with _database() as database, database.reading() as connection:
                verdict = verify(connection, expected)
    except (OSError, ValueError) as error:
        _end(str(error))
    if verdict.problem is not None:
        print(f"NOT SOUND: {verdict.problem}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"sound: {verdict.rows} rows, {verdict.results} results; head {verdict.head}")


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Write reviewed images and labels as a folder that `python -m training` reads.

    Only results whose images are kept (KARYON_KEEP_IMAGES=true) can be exported.
    """
    try:
        settings = load_settings()
    except ValueError as error:
        _end(str(error))
    limits = ImageLimits(max_pixels=settings.max_pixels, min_side_px=1)
    with _database() as database:
        try:
            with database.reading() as connection:
                done = export_reviewed(connection, folder, limits)
        except OSError as error:
            _end(str(error))
        with database.writing() as transaction:
            audit_export(transaction, done, actor=_actor())
    print(
        f"{len(done.written)} reviewed images written; left out: {done.without_image} whose image"
        f" is not kept, {done.without_labels} corrected by a count without labels."
    )
