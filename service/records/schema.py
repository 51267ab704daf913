"""The tables, as SQLAlchemy knows them; `migrations/` makes them, and a test compares the two.

```
 audit_head ─ last ─► audit            one row for each thing that happened, chained by hashes
                        ▲ sequence
 results ───────────────┤              one row a result, never changed but for status and version
   ├─ result_versions ──┘              one row for each state it was in, the first made by the model
   ├─ result_images                    only where images are kept
   ├─ order_results ──► orders         what a laboratory ordered, and which results answer it
   └─ held_results                     not delivered before their order comes
 idempotency_keys    api_keys
```
Times are UTC text (`service.records.times`), digests are hexadecimal SHA-256.
"""

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The metadata of all tables."""


class ResultRow(Base):
    """One answer of `POST /segment`."""

    __tablename__ = "results"
    __table_args__ = (Index("ix_results_created_utc", "created_utc"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, unique=True)
    created_utc: Mapped[str] = mapped_column(String(24))
    caller: Mapped[str] = mapped_column(String(255))
    accession: Mapped[str | None] = mapped_column(String(255), index=True)
    specimen_id: Mapped[str | None] = mapped_column(String(255), index=True)
    order_id: Mapped[str | None] = mapped_column(String(255), index=True)
    input_sha256: Mapped[str] = mapped_column(String(64))
    pixel_sha256: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(255))
    model_version: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))
    software: Mapped[str] = mapped_column(Text)
    document: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(16))
    version: Mapped[int]


class ResultVersionRow(Base):
    """One state of a result: as the model made it, or as a reviewer left it."""

    __tablename__ = "result_versions"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("results.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True)
    created_utc: Mapped[str] = mapped_column(String(24))
    actor: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(16))
    count: Mapped[int]
    decision: Mapped[str | None] = mapped_column(String(16))
    reviewer: Mapped[str | None] = mapped_column(String(255))
    reason: Mapped[str | None] = mapped_column(Text)
    labels_png: Mapped[bytes | None] = mapped_column(LargeBinary)


class ResultImageRow(Base):
    """The image of a result and the nuclei the model found in it, where images are kept."""

    __tablename__ = "result_images"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("results.id", ondelete="CASCADE"), primary_key=True
    )
    image: Mapped[bytes] = mapped_column(LargeBinary)
    labels_png: Mapped[bytes] = mapped_column(LargeBinary)


class AuditRow(Base):
    """One entry of the audit trail."""

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    occurred_utc: Mapped[str] = mapped_column(String(24))
    action: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(255))
    subject: Mapped[str] = mapped_column(String(255))
    details: Mapped[str] = mapped_column(Text)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Base):
    """The one row that tells where the audit trail ends."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(64))


class IdempotencyKeyRow(Base):
    """An idempotency key: claimed while `status` is null, answered from then on."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(32))
    lease_utc: Mapped[str] = mapped_column(String(24))
    created_utc: Mapped[str] = mapped_column(String(24))
    expires_utc: Mapped[str] = mapped_column(String(24), index=True)
    status: Mapped[int | None]
    media_type: Mapped[str | None] = mapped_column(String(255))
    headers: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


class DeliveryRow(Base):
    """One state of a result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_due", "destination", "status", "next_utc"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, unique=True)
    result_id: Mapped[str] = mapped_column(ForeignKey("results.id", ondelete="CASCADE"), index=True)
    version: Mapped[int]
    destination: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    created_utc: Mapped[str] = mapped_column(String(24))
    queued_utc: Mapped[str] = mapped_column(String(24))
    next_utc: Mapped[str] = mapped_column(String(24))
    in_flight: Mapped[bool]
    outcome: Mapped[str | None] = mapped_column(String(255))


class DisabledDestinationRow(Base):
    """A destination that said it wants no more."""

    __tablename__ = "disabled_destinations"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    disabled_utc: Mapped[str] = mapped_column(String(24))


class OrderRow(Base):
    """What a laboratory ordered; never changed but for status and the time of its last change."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, unique=True)
    created_utc: Mapped[str] = mapped_column(String(24))
    caller: Mapped[str] = mapped_column(String(255))
    placer_number: Mapped[str] = mapped_column(String(64), unique=True)
    filler_number: Mapped[str | None] = mapped_column(String(64))
    accession: Mapped[str] = mapped_column(String(64), index=True)
    specimen_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    changed_utc: Mapped[str] = mapped_column(String(24))


class OrderResultRow(Base):
    """A result answers an order; a result answers one at most."""

    __tablename__ = "order_results"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("results.id", ondelete="CASCADE"), primary_key=True
    )
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), index=True)
    bound_utc: Mapped[str] = mapped_column(String(24))


class HeldResultRow(Base):
    """A result that is not delivered before an order of its accession comes."""

    __tablename__ = "held_results"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("results.id", ondelete="CASCADE"), primary_key=True
    )
    held_utc: Mapped[str] = mapped_column(String(24))


class ApiKeyRow(Base):
    """What is kept of an API key."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    scopes: Mapped[str] = mapped_column(String(255))
    key_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_utc: Mapped[str] = mapped_column(String(24))
    expires_utc: Mapped[str | None] = mapped_column(String(24))
    revoked_utc: Mapped[str | None] = mapped_column(String(24))
