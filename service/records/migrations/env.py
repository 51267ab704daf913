"""What Alembic runs: the migrations within the transaction that `database.migrate` opened."""

from alembic import context

from service.records.schema import Base

VERSION_TABLE = "karyon_schema_version"

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # A laboratory may keep other tables, and their own alembic_version, in the same database.
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
