"""API keys against what the audit trail says of them: none put in, widened or revived."""

from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, select

from service.records.audit import AuditEntry
from service.records.keys import key_digest
from service.records.order_verification import TamperedError
from service.records.schema import ApiKeyRow


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the trail says that a key is like.

    Attributes:
        name: Whose it is.
        scopes: What it is good for, as filed.
        expires_utc: When it ends, or None.
        revoked: Whether it was revoked.
        revoked_utc: When; None also where the trail, of an older version, does not say it.
        record_sha256: Of what never changes; None where the trail does not say it.
    """

    name: str
    scopes: str
    expires_utc: str | None
    revoked: bool = False
    revoked_utc: str | None = None
    record_sha256: str | None = None


@dataclass(slots=True)
class KeyTrail:
    """What the trail tells of API keys, row by row.

    Attributes:
        keys: By id.
    """

    keys: dict[str, _Expected] = field(default_factory=dict)

    def remember(self, entry: AuditEntry, details: dict[str, Any]) -> None:
        """Take the next row."""
        key_id = entry.subject.removeprefix("key:")
        known = self.keys.get(key_id)
        match entry.action:
            case "key.created":
                self.keys[key_id] = _Expected(
                    name=details["name"],
                    scopes=" ".join(details["scopes"]),
                    expires_utc=details["expires_utc"],
                    record_sha256=details.get("record_sha256"),
                )
            case "key.rotated" if known is not None:
                ends_utc = details["ends_utc"]
                if known.expires_utc is None or known.expires_utc > ends_utc:
                    self.keys[key_id] = replace(known, expires_utc=ends_utc)
            case "key.revoked" if known is not None:
                self.keys[key_id] = replace(
                    known, revoked=True, revoked_utc=details.get("revoked_utc")
                )

    def check(self, connection: Connection) -> None:
        """Compare the table with the trail, or raise TamperedError."""
        missing = dict(self.keys)
        for row in connection.execute(select(ApiKeyRow.__table__).order_by(ApiKeyRow.id)):
            columns = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name
            said = missing.pop(columns["id"], None)
            if said is None:
                raise TamperedError(f"key {columns['id']} was put in: the audit trail knows none")
            if not _is_as_said(columns, said):
                raise TamperedError(f"key {columns['id']} was altered")
        if missing:
            raise TamperedError(f"key {next(iter(missing))} was removed")


def _is_as_said(columns: dict[str, Any], said: _Expected) -> bool:
    if said.record_sha256 not in (None, key_digest(columns)):
        return False
    if said.revoked_utc not in (None, columns["revoked_utc"]):
        return False
    found = (columns["name"], columns["scopes"], columns["expires_utc"])
    revoked = columns["revoked_utc"] is not None
    return (*found, revoked) == (said.name, said.scopes, said.expires_utc, said.revoked)
