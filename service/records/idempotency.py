"""Idempotency keys (IETF draft-ietf-httpapi-idempotency-key-header-07), kept beside the results.

```
 claim ──► Claimed        the work is yours; `renew` the lease while it runs, then `complete`
       ├─► Running        somebody else works on it; ask again
       ├─► StoredAnswer   it was answered before; give the same answer
       └─► error          the key was used for another request
```
A claim is a lease: a process that dies stops renewing it, and the next one with the key takes over.
`complete` commits the answer together with the result, and fails if the lease was lost, so that a
key never has two results.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy import ColumnElement, delete, insert, select, update

from service.errors import IdempotencyKeyReusedError, KaryonError
from service.records.audit import Transaction
from service.records.schema import IdempotencyKeyRow
from service.records.times import utc_after, utc_now

LEASE_S: Final = 15.0
"""Seconds after which a claim that is not renewed may be taken over."""

_MOST_EXPIRED_A_CLAIM: Final = 20


class ClaimLostError(KaryonError):
    """The lease ran out and another process took the key over; nothing was committed."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key and what it stands for.

    Attributes:
        caller: Whose key it is; two callers may use the same.
        key: The key, without quotes.
    """

    caller: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that can be given again.

    Attributes:
        status: HTTP status.
        media_type: Of the body.
        headers: Headers that belong to it.
        body: The bytes.
    """

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is the caller's to work on."""


@dataclass(frozen=True, slots=True)
class Running:
    """Another request with the key runs."""


def claim(
    transaction: Transaction,
    key: IdempotencyKey,
    *,
    fingerprint: str,
    owner: str,
    lifetime_s: float,
) -> Claimed | Running | StoredAnswer:
    """Claim a key, or learn what became of it.

    Args:
        transaction: To write with.
        key: The key.
        fingerprint: Digest of everything that the answer depends on.
        owner: Unique to the claiming request.
        lifetime_s: Seconds that the key and its answer are kept.

    Raises:
        IdempotencyKeyReusedError: The key was used with another fingerprint.
    """
    row = transaction.connection.execute(
        select(IdempotencyKeyRow.__table__).where(*_is(key))
    ).one_or_none()
    now = utc_now()
    if row is not None and (row.expires_utc <= now or _abandoned(row.status, row.lease_utc, now)):
        transaction.connection.execute(delete(IdempotencyKeyRow).where(*_is(key)))
        row = None
    if row is None:
        forget_expired(transaction, _MOST_EXPIRED_A_CLAIM)
        transaction.connection.execute(
            insert(IdempotencyKeyRow),
            {
                "caller": key.caller,
                "key": key.key,
                "fingerprint": fingerprint,
                "owner": owner,
                "lease_utc": utc_after(LEASE_S),
                "created_utc": now,
                "expires_utc": utc_after(lifetime_s),
            },
        )
        return Claimed()
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReusedError(
            "This Idempotency-Key was used for another request; use a new one for each."
        )
    if row.status is None:
        return Running()
    return StoredAnswer(row.status, row.media_type, orjson.loads(row.headers), row.body)


def renew(transaction: Transaction, key: IdempotencyKey, owner: str) -> None:
    """Prolong the lease of a claim."""
    transaction.connection.execute(
        update(IdempotencyKeyRow)
        .where(*_is(key), IdempotencyKeyRow.owner == owner)
        .values(lease_utc=utc_after(LEASE_S))
    )


def complete(
    transaction: Transaction, key: IdempotencyKey, owner: str, answer: StoredAnswer
) -> None:
    """Store the answer of a claim; call it in the transaction that files the result.

    Raises:
        ClaimLostError: Somebody else holds the key now.
    """
    done = transaction.connection.execute(
        update(IdempotencyKeyRow)
        .where(
            *_is(key),
            IdempotencyKeyRow.owner == owner,
            IdempotencyKeyRow.status.is_(None),
        )
        .values(
            status=answer.status,
            media_type=answer.media_type,
            headers=orjson.dumps(dict(answer.headers)).decode(),
            body=answer.body,
        )
    )
    if done.rowcount != 1:
        raise ClaimLostError("Another process took the Idempotency-Key over.")


def release(transaction: Transaction, key: IdempotencyKey, owner: str) -> None:
    """Give up a claim that came to nothing, so that the next request with the key may try."""
    transaction.connection.execute(
        delete(IdempotencyKeyRow).where(
            *_is(key),
            IdempotencyKeyRow.owner == owner,
            IdempotencyKeyRow.status.is_(None),
        )
    )


def _abandoned(status: int | None, lease_utc: str, now: str) -> bool:
    return status is None and lease_utc <= now


def _is(key: IdempotencyKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return IdempotencyKeyRow.caller == key.caller, IdempotencyKeyRow.key == key.key


def forget_expired(transaction: Transaction, most: int) -> int:
    """Remove up to `most` expired keys with the answers kept under them; return how many.

    A few go at each claim, so that the table stays small without a moment at which much is deleted,
    and the rest with whatever else is purged: answers hold identifiers of cases.
    """
    expired = transaction.connection.execute(
        select(IdempotencyKeyRow.caller, IdempotencyKeyRow.key)
        .where(IdempotencyKeyRow.expires_utc <= utc_now())
        .limit(most)
    ).all()
    for caller, key in expired:
        transaction.connection.execute(
            delete(IdempotencyKeyRow).where(*_is(IdempotencyKey(caller, key)))
        )
    return len(expired)
