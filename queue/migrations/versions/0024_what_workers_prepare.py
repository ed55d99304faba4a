"""What workers were told to get ready, since when, what they can never have, and their part of a shared server's ceiling."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import UTCDateTime

revision = "0024"
down_revision = "0023"
_AT_WORK = sa.text("state = 'active'")


def upgrade() -> None:
    """Five columns, which workers fill as they ask for work and register; and an index of those that are there."""
    op.add_column("workers", sa.Column("preparing", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("preparing_at", UTCDateTime(), nullable=True))
    op.add_column("workers", sa.Column("lacking", sa.JSON(), nullable=True))
    op.add_column("workers", sa.Column("adapters", sa.Boolean(), nullable=True))
    op.add_column("workers", sa.Column("spare_part", sa.Integer(), nullable=True))
    op.create_index("workers_at_work", "workers", ["pool"], sqlite_where=_AT_WORK, postgresql_where=_AT_WORK)
