"""The outbox: what is to be delivered where."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
        sa.Column(
            "result_id",
            sa.String(32),
            sa.ForeignKey("results.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_utc", sa.String(24), nullable=False),
        sa.Column("queued_utc", sa.String(24), nullable=False),
        sa.Column("next_utc", sa.String(24), nullable=False),
        sa.Column("in_flight", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String(255)),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["destination", "status", "next_utc"])
    op.create_index("ix_deliveries_result_id", "deliveries", ["result_id"])
    op.create_table(
        "disabled_destinations",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("disabled_utc", sa.String(24), nullable=False),
    )
