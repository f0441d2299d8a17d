"""Sessions that can be locked, and that say when something last happened in them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The default lets a gateway of the version before go on opening sessions meanwhile.
    op.add_column("sessions", sa.Column("locked_by", sa.Text(), nullable=False, server_default=""))
    op.add_column("sessions", sa.Column("active_at", sa.DateTime(timezone=True), nullable=True))
