"""Batches that were told to start now."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """One column: nothing was told so."""
    op.add_column("batches", sa.Column("started", sa.JSON(), nullable=True))
