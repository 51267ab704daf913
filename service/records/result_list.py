"""Results, filtered, page by page."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, or_

from service.records.cursors import cursor_of, sequence_of
from service.records.results import JOINED, RecordedResult, recorded
from service.records.schema import HeldResultRow, OrderRow, ResultRow


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results are listed; None asks nothing.

    Attributes:
        accession: Exactly this.
        specimen_id: Exactly this.
        order_id: Exactly this.
        model: Name, or `name:version`.
        status: Exactly this.
        held: Whether they wait for their order.
        since_utc: Made at this time or later.
        until_utc: Made before this time.
    """

    accession: str | None = None
    specimen_id: str | None = None
    order_id: str | None = None
    model: str | None = None
    status: str | None = None
    held: bool | None = None
    since_utc: str | None = None
    until_utc: str | None = None


def list_results(
    connection: Connection, wanted: ResultFilter, *, cursor: str | None, most: int
) -> tuple[list[RecordedResult], str | None]:
    """Return a page of results, the newest first, and the cursor of the next page.

    Args:
        connection: To read with.
        wanted: Which results.
        cursor: From the page before; None begins.
        most: Results on the page.

    Raises:
        InvalidParameterError: The cursor is none of ours.
    """
    query = JOINED.order_by(ResultRow.sequence.desc()).limit(most + 1).where(*_conditions(wanted))
    if cursor is not None:
        query = query.where(ResultRow.sequence < sequence_of(cursor))
    page = [recorded(row) for row in connection.execute(query)]
    more = len(page) > most
    return page[:most], cursor_of(page[most - 1].sequence) if more else None


def _conditions(wanted: ResultFilter) -> Iterator[ColumnElement[bool]]:
    for name in ("accession", "status"):
        value = getattr(wanted, name)
        if value is not None:
            yield ResultRow.__table__.c[name] == value
    for own, ordered, value in (
        (ResultRow.specimen_id, OrderRow.specimen_id, wanted.specimen_id),
        (ResultRow.order_id, OrderRow.placer_number, wanted.order_id),
    ):
        if value is not None:
            yield or_(own == value, own.is_(None) & (ordered == value))
    if wanted.held is not None:
        waits = HeldResultRow.result_id.is_not(None)
        yield waits if wanted.held else ~waits
    if wanted.model is not None:
        name, _, version = wanted.model.partition(":")
        yield ResultRow.model_name == name
        if version:
            yield ResultRow.model_version == version
    if wanted.since_utc is not None:
        yield ResultRow.created_utc >= wanted.since_utc
    if wanted.until_utc is not None:
        yield ResultRow.created_utc < wanted.until_utc
