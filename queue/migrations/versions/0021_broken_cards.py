"""Which GPUs of workers are broken, since when, and which of them may go on."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import UTCDateTime

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Three columns; of the workers that there are nothing is known."""
    op.add_column("workers", sa.Column("ill_at", UTCDateTime(), nullable=True))
    op.add_column("workers", sa.Column("broken", sa.JSON(), nullable=True))
    op.add_column("workers", sa.Column("pardoned", sa.JSON(), nullable=True))
