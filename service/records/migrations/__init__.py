"""Alembic migrations, run by `service.records.database` at start."""
