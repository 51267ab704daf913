"""Reviews: a person accepts, edits or rejects a result, and every earlier state stays readable.

```
 preliminary ── accept ──► final ─────┐
      │                      │ edit   │ reject
      ├── edit ──► corrected ◄┘ (again and again)
      │                └── reject ──► cancelled      the last state of all
      └── reject ─────────────────►
```
"""

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import update

from service.errors import ReviewConflictError, StaleVersionError
from service.records.audit import Transaction
from service.records.bindings import follow_result
from service.records.outbox import enqueue
from service.records.results import (
    RecordedResult,
    ResultVersion,
    Status,
    add_version,
    get_result,
)
from service.records.schema import ResultRow
from service.records.times import utc_now

Decision = Literal["accept", "edit", "reject"]

_NEXT: Final[dict[tuple[str, Decision], Status]] = {
    ("preliminary", "accept"): "final",
    ("preliminary", "edit"): "corrected",
    ("preliminary", "reject"): "cancelled",
    ("final", "edit"): "corrected",
    ("final", "reject"): "cancelled",
    ("corrected", "edit"): "corrected",
    ("corrected", "reject"): "cancelled",
}


@dataclass(frozen=True, slots=True)
class Review:
    """What a reviewer decided.

    Attributes:
        decision: What.
        reviewer: Who, as the calling system names them.
        reason: Why.
        count: Nuclei, where the decision is `edit`.
        labels_png: The nuclei as the reviewer drew them, as 16-bit PNG.
    """

    decision: Decision
    reviewer: str
    reason: str | None = None
    count: int | None = None
    labels_png: bytes | None = None


def add_review(
    transaction: Transaction,
    result_id: str,
    review: Review,
    *,
    expected_version: int | None,
    actor: str,
) -> RecordedResult:
    """File a review as the next version of a result, with its audit row.

    Args:
        transaction: To write with.
        result_id: Which result.
        review: The decision.
        expected_version: Version that the reviewer saw; None takes any.
        actor: Id of the caller.

    Returns:
        The result as it stands now.

    Raises:
        UnknownResultError: There is no such result.
        StaleVersionError: Somebody else reviewed it meanwhile.
        ReviewConflictError: Its status does not allow the decision.
    """
    before = get_result(transaction.connection, result_id).current
    if expected_version not in (None, before.version):
        raise StaleVersionError(
            f"The result is at version {before.version} now; read it again before you review it."
        )
    status = _NEXT.get((before.status, review.decision))
    if status is None:
        raise ReviewConflictError(f"A {before.status} result cannot be met with {review.decision}.")
    after = ResultVersion(
        version=before.version + 1,
        created_utc=utc_now(),
        actor=actor,
        status=status,
        count=before.count if review.count is None else review.count,
        decision=review.decision,
        reviewer=review.reviewer,
        reason=review.reason,
        labels_png=review.labels_png,
    )
    digest = add_version(transaction, result_id, after)
    transaction.connection.execute(
        update(ResultRow)
        .where(ResultRow.id == result_id)
        .values(status=after.status, version=after.version)
    )
    # The reason stays in the result, which can be purged; the trail is for ever.
    transaction.audit(
        "result.reviewed",
        actor=actor,
        subject=result_id,
        details={
            "decision": review.decision,
            "reviewer": review.reviewer,
            "version": after.version,
            "version_sha256": digest,
            "status": after.status,
            "before": {"status": before.status, "count": before.count},
            "after": {"status": after.status, "count": after.count},
        },
    )
    follow_result(transaction, result_id, actor=actor)
    enqueue(transaction, result_id, after.version)
    return get_result(transaction.connection, result_id)
