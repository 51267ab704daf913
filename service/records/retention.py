"""Retention: what is older than the settings allow is removed, and the trail tells so."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy import delete, exists, select

from service.errors import KaryonError
from service.records.audit import Transaction
from service.records.idempotency import forget_expired
from service.records.recorder import Recorder
from service.records.results import SERVICE
from service.records.schema import OrderResultRow, OrderRow, ResultImageRow, ResultRow
from service.records.times import utc_after

_BETWEEN_ROUNDS_S: Final = 3600.0
_MOST_A_COMMIT: Final = 200
_DAY_S: Final = 86_400.0
_logger = structlog.get_logger("karyon.records")


def purge_results(transaction: Transaction, before_utc: str, most: int) -> int:
    """Remove up to `most` results made before a time, each with an audit row; return how many."""
    old: Sequence[str] = transaction.connection.scalars(
        select(ResultRow.id)
        .where(ResultRow.created_utc < before_utc)
        .order_by(ResultRow.sequence)
        .limit(most)
    ).all()
    for result_id in old:
        transaction.audit("result.purged", actor=SERVICE, subject=result_id, details={})
    transaction.connection.execute(delete(ResultRow).where(ResultRow.id.in_(old)))
    return len(old)


def purge_orders(transaction: Transaction, before_utc: str, most: int) -> int:
    """Remove up to `most` orders unchanged since a time and without results; return how many."""
    answered = exists().where(OrderResultRow.order_id == OrderRow.id)
    old: Sequence[str] = transaction.connection.scalars(
        select(OrderRow.id)
        .where(OrderRow.changed_utc < before_utc, ~answered)
        .order_by(OrderRow.sequence)
        .limit(most)
    ).all()
    for order_id in old:
        transaction.audit("order.purged", actor=SERVICE, subject=order_id, details={})
    transaction.connection.execute(delete(OrderRow).where(OrderRow.id.in_(old)))
    return len(old)


def purge_images(transaction: Transaction, before_utc: str, most: int) -> int:
    """Remove up to `most` kept images of results made before a time; return how many."""
    old: Sequence[str] = transaction.connection.scalars(
        select(ResultImageRow.result_id)
        .join(ResultRow)
        .where(ResultRow.created_utc < before_utc)
        .order_by(ResultRow.sequence)
        .limit(most)
    ).all()
    for result_id in old:
        transaction.audit("image.purged", actor=SERVICE, subject=result_id, details={})
    transaction.connection.execute(delete(ResultImageRow).where(ResultImageRow.result_id.in_(old)))
    return len(old)


async def purge_once(
    recorder: Recorder, *, result_days: float | None, image_days: float | None
) -> tuple[int, int]:
    """Remove what is too old, a few hundred results a commit so that other writes get their turn.

    Expired keys and their answers go whatever the settings say.

    Args:
        recorder: Where.
        result_days: Days that results are kept, and orders after their last change; None keeps both
            for ever.
        image_days: Days that images are kept; None keeps them as long as their results.

    Returns:
        Results and images that were removed.
    """
    removed = {"results": 0, "images": 0, "orders": 0, "keys": 0}
    for what, days, purge in (
        ("images", image_days, purge_images),
        ("results", result_days, purge_results),
        ("orders", result_days, purge_orders),
    ):
        while days is not None:
            before_utc = utc_after(-days * _DAY_S)
            count = await recorder.write(
                lambda transaction, purge=purge, before_utc=before_utc: purge(  # type: ignore[misc]  # defaults bind the loop's values
                    transaction, before_utc, _MOST_A_COMMIT
                )
            )
            removed[what] += count
            if count < _MOST_A_COMMIT:
                break
    while (
        forgotten := await recorder.write(
            lambda transaction: forget_expired(transaction, _MOST_A_COMMIT)
        )
    ) == _MOST_A_COMMIT:
        removed["keys"] += forgotten
    removed["keys"] += forgotten
    if any(removed.values()):
        await asyncio.to_thread(recorder.database.wipe_journal)
    return removed["results"], removed["images"]


async def keep_purging(
    recorder: Recorder, *, result_days: float | None, image_days: float | None
) -> None:
    """Purge at once and then every hour, until cancelled; a failure waits for the next round."""
    while True:
        try:
            results, images = await purge_once(
                recorder, result_days=result_days, image_days=image_days
            )
            if results or images:
                _logger.info("purged", results=results, images=images)
        except KaryonError as error:
            _logger.warning("purge failed", reason=str(error))
        except Exception:
            # A fault of ours must not end the purge of patients' images until the next start.
            _logger.exception("purge failed unexpectedly")
        await asyncio.sleep(_BETWEEN_ROUNDS_S)
