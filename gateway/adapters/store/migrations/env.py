"""What Alembic runs. Only `upgrade` in this package calls it, on its own connection and in its own transaction."""

from alembic import context
from sqlmodel import SQLModel

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
