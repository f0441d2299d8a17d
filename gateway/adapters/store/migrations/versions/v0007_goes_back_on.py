"""Where a rollback led to the version that ran before, as known when it was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Of runs that were stored before, nothing is known: none is decided again, for the start of a gateway ends them.
    op.add_column("deploy_runs", sa.Column("goes_back_on", sa.JSON(), server_default="[]", nullable=False))
