"""Leases know where their role was made, so that a target that has moved is not taken for cleaned up."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("leases", sa.Column("place", sa.Text(), nullable=False, server_default=""))
