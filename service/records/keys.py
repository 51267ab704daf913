"""API keys: 256 random bits each, of which the database keeps the SHA-256 and never the key.

```
 karyon_3f9c2a71_Wb3k...43 characters        a key as it is shown once
        └─ id ─┘ └─ 256 random bits ─┘
```
A slow password hash would add nothing: nobody guesses 256 bits, and each request pays for it.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, insert, select, update

from service.errors import InvalidCredentialError, KaryonError
from service.records.audit import Transaction
from service.records.schema import ApiKeyRow
from service.records.times import utc_after, utc_now

_KEY: Final = re.compile(r"karyon_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_DAY_S: Final = 86_400.0


class UnknownKeyError(KaryonError):
    """There is no such API key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key.

    Attributes:
        id: The part of the key that may be shown.
        name: Whose it is.
        scopes: What it is good for.
        created_utc: When it was made.
        expires_utc: When it ends, or None.
        revoked_utc: When it was revoked, or None.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_utc: str
    expires_utc: str | None
    revoked_utc: str | None

    @property
    def state(self) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_utc is not None:
            return "revoked"
        expired = self.expires_utc is not None and self.expires_utc <= utc_now()
        return "expired" if expired else "active"


def looks_like_key(text: str) -> bool:
    """Tell whether a credential claims to be an API key of this service."""
    return text.startswith("karyon_")


def create_key(
    transaction: Transaction,
    *,
    name: str,
    scopes: Iterable[str],
    days: float | None,
    actor: str,
) -> tuple[str, ApiKey]:
    """Make a key.

    Args:
        transaction: To write with.
        name: Whose it is.
        scopes: What it is good for.
        days: Days until it expires; None for never.
        actor: Who makes it, for the audit trail.

    Returns:
        The key itself, which nobody can read again, and what is kept of it.
    """
    key_id = secrets.token_hex(4)
    secret = f"karyon_{key_id}_{secrets.token_urlsafe(32)}"
    kept = ApiKey(
        id=key_id,
        name=name,
        scopes=tuple(sorted(set(scopes))),
        created_utc=utc_now(),
        expires_utc=None if days is None else utc_after(days * _DAY_S),
        revoked_utc=None,
    )
    transaction.connection.execute(
        insert(ApiKeyRow),
        {
            "id": kept.id,
            "name": kept.name,
            "scopes": " ".join(kept.scopes),
            "key_sha256": _digest(secret),
            "created_utc": kept.created_utc,
            "expires_utc": kept.expires_utc,
        },
    )
    transaction.audit(
        "key.created",
        actor=actor,
        subject=f"key:{kept.id}",
        details={"name": name, "scopes": list(kept.scopes), "expires_utc": kept.expires_utc},
    )
    return secret, kept


def list_keys(connection: Connection) -> list[ApiKey]:
    """Return all keys, the oldest first."""
    order = (ApiKeyRow.created_utc, ApiKeyRow.id)
    return [_key(row) for row in connection.execute(select(ApiKeyRow).order_by(*order))]


def revoke_key(transaction: Transaction, key_id: str, *, actor: str) -> None:
    """End a key at once.

    Raises:
        UnknownKeyError: There is no key of that id that is not revoked.
    """
    done = transaction.connection.execute(
        update(ApiKeyRow)
        .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_utc.is_(None))
        .values(revoked_utc=utc_now())
    )
    if done.rowcount != 1:
        raise UnknownKeyError(f"There is no key {key_id} that could be revoked.")
    transaction.audit("key.revoked", actor=actor, subject=f"key:{key_id}", details={})


def rotate_key(
    transaction: Transaction, key_id: str, *, overlap_days: float, days: float | None, actor: str
) -> tuple[str, ApiKey]:
    """Make a new key of the same name and scopes, and let the old one end soon.

    Args:
        transaction: To write with.
        key_id: The old key.
        overlap_days: Days for which both are good.
        days: Days until the new one expires; None for as many as the old one was made for.
        actor: Who does it, for the audit trail.

    Raises:
        UnknownKeyError: There is no such key that is still good.
    """
    row = transaction.connection.execute(
        select(ApiKeyRow).where(ApiKeyRow.id == key_id)
    ).one_or_none()
    old = None if row is None else _key(row)
    if old is None or old.state != "active":
        raise UnknownKeyError(f"There is no active key {key_id}.")
    if days is None and old.expires_utc is not None:
        # A key that was to end must not become one that never does.
        made_utc, expires_utc = map(dt.datetime.fromisoformat, (old.created_utc, old.expires_utc))
        days = (expires_utc - made_utc) / dt.timedelta(days=1)
    ends_utc = utc_after(overlap_days * _DAY_S)
    if old.expires_utc is None or old.expires_utc > ends_utc:
        transaction.connection.execute(
            update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(expires_utc=ends_utc)
        )
    made = create_key(transaction, name=old.name, scopes=old.scopes, days=days, actor=actor)
    transaction.audit(
        "key.rotated",
        actor=actor,
        subject=f"key:{key_id}",
        details={"successor": f"key:{made[1].id}", "ends_utc": ends_utc},
    )
    return made


def find_key(connection: Connection, secret: str) -> ApiKey:
    """Return the active key that a credential is.

    Raises:
        InvalidCredentialError: It is none, or one that is expired or revoked.
    """
    form = _KEY.fullmatch(secret)
    row = None
    if form is not None:
        row = connection.execute(
            select(ApiKeyRow).where(ApiKeyRow.id == form.group(1))
        ).one_or_none()
    if row is None or not hmac.compare_digest(row.key_sha256, _digest(secret)):
        raise InvalidCredentialError("The API key is not known.")
    key = _key(row)
    if key.state != "active":
        raise InvalidCredentialError(f"The API key is {key.state}.")
    return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: object) -> ApiKey:
    values = {name: getattr(row, name) for name in ApiKey.__slots__}
    return ApiKey(**{**values, "scopes": tuple(values["scopes"].split())})
