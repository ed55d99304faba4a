"""Promises that got worse: on the batch, and what an event says beside the batch that it names."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add columns: of what came earlier neither is known."""
    op.add_column("batches", sa.Column("risk", sa.JSON(), nullable=True))
    op.add_column("deliveries", sa.Column("data", sa.JSON(), nullable=True))
