"""Idempotency keys with the answers that were given under them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.String(255), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("lease_utc", sa.String(24), nullable=False),
        sa.Column("created_utc", sa.String(24), nullable=False),
        sa.Column("expires_utc", sa.String(24), nullable=False, index=True),
        sa.Column("status", sa.Integer),
        sa.Column("media_type", sa.String(255)),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary),
    )
