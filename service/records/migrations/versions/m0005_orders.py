"""Orders, the results that answer them, and the results that wait for one."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def _result_id() -> sa.Column[str]:
    return sa.Column(
        "result_id",
        sa.String(32),
        sa.ForeignKey("results.id", ondelete="CASCADE"),
        primary_key=True,
    )


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "orders",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
        sa.Column("created_utc", sa.String(24), nullable=False),
        sa.Column("caller", sa.String(255), nullable=False),
        sa.Column("placer_number", sa.String(64), nullable=False, unique=True),
        sa.Column("filler_number", sa.String(64)),
        sa.Column("accession", sa.String(64), nullable=False),
        sa.Column("specimen_id", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("changed_utc", sa.String(24), nullable=False),
    )
    op.create_index("ix_orders_accession", "orders", ["accession"])
    op.create_table(
        "order_results",
        _result_id(),
        sa.Column(
            "order_id",
            sa.String(32),
            sa.ForeignKey("orders.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("bound_utc", sa.String(24), nullable=False),
    )
    op.create_index("ix_order_results_order_id", "order_results", ["order_id"])
    op.create_table(
        "held_results",
        _result_id(),
        sa.Column("held_utc", sa.String(24), nullable=False),
    )
