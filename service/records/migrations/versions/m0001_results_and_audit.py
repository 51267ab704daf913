"""Results, their versions, and the audit trail.

The triggers keep an honest program, or an honest person with a database shell, from changing what
is filed. Whoever may drop triggers can still change rows, and the hash chain then tells.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_TIME = sa.String(24)
_DIGEST = sa.String(64)
_NAME = sa.String(255)

# Table, event, and the condition under which the event is refused.
_REFUSED = (
    ("audit", "UPDATE", None),
    ("audit", "DELETE", None),
    ("audit_head", "DELETE", None),
    ("audit_head", "UPDATE", "NEW.sequence <= OLD.sequence OR NEW.id <> OLD.id"),
    ("result_versions", "UPDATE", None),
    ("result_images", "UPDATE", None),
)
_FIXED_RESULT_COLUMNS = (
    "id", "sequence", "created_utc", "caller", "accession", "specimen_id", "order_id",
    "input_sha256", "pixel_sha256", "model_name", "model_version", "model_digest", "software",
    "document",
)  # fmt: skip
# SQLite spells it `IS NOT` in all versions, and knows the standard's words since 3.39 only.
_DIFFERS = {"sqlite": "IS NOT", "postgresql": "IS DISTINCT FROM"}


def upgrade() -> None:
    """Create the tables, the empty chain and the triggers."""
    op.create_table(
        "results",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
        sa.Column("created_utc", _TIME, nullable=False),
        sa.Column("caller", _NAME, nullable=False),
        sa.Column("accession", _NAME, index=True),
        sa.Column("specimen_id", _NAME, index=True),
        sa.Column("order_id", _NAME, index=True),
        sa.Column("input_sha256", _DIGEST, nullable=False),
        sa.Column("pixel_sha256", _DIGEST, nullable=False),
        sa.Column("model_name", _NAME, nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("model_digest", _DIGEST, nullable=False),
        sa.Column("software", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_index("ix_results_created_utc", "results", ["created_utc"])
    op.create_table(
        "result_versions",
        sa.Column(
            "result_id",
            sa.String(32),
            sa.ForeignKey("results.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("created_utc", _TIME, nullable=False),
        sa.Column("actor", _NAME, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("decision", sa.String(16)),
        sa.Column("reviewer", _NAME),
        sa.Column("reason", sa.Text),
        sa.Column("labels_png", sa.LargeBinary),
    )
    op.create_table(
        "result_images",
        sa.Column(
            "result_id",
            sa.String(32),
            sa.ForeignKey("results.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("image", sa.LargeBinary, nullable=False),
        sa.Column("labels_png", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("occurred_utc", _TIME, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("actor", _NAME, nullable=False),
        sa.Column("subject", _NAME, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("previous_hash", _DIGEST, nullable=False),
        sa.Column("hash", _DIGEST, nullable=False),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", _DIGEST, nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "hash": "0" * 64}])
    dialect = op.get_bind().dialect.name
    changed = " OR ".join(f"NEW.{c} {_DIFFERS[dialect]} OLD.{c}" for c in _FIXED_RESULT_COLUMNS)
    refuse = _refuse_in_postgresql if dialect == "postgresql" else _refuse_in_sqlite
    for table, event, condition in (*_REFUSED, ("results", "UPDATE", changed)):
        refuse(table, event, condition)


def _refuse_in_sqlite(table: str, event: str, condition: str | None) -> None:
    when = f"WHEN {condition}" if condition else ""
    op.execute(
        f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} {when} BEGIN"
        f" SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def _refuse_in_postgresql(table: str, event: str, condition: str | None) -> None:
    op.execute(
        "CREATE OR REPLACE FUNCTION karyon_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    when = f"WHEN ({condition})" if condition else ""
    op.execute(
        f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} FOR EACH ROW {when}"
        " EXECUTE FUNCTION karyon_refuse()"
    )
    op.execute(
        f"CREATE OR REPLACE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION karyon_refuse()"
    )
