"""COMMITs that levels with a dry-run hold, until somebody says yes to what was written."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "held_commits",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("tx", whole, nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirm", sa.Text(), nullable=False),
        sa.Column("statements", whole, nullable=False),
        sa.Column("rows", whole, nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session"),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"]),
    )
