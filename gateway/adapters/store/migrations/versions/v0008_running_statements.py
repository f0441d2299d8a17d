"""What databases work on for sessions that are live, and whose statement somebody wants cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("running", sa.JSON(), nullable=True))
    op.add_column("sessions", sa.Column("cancel", sa.JSON(), nullable=True))
