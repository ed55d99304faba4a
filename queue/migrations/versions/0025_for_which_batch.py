"""For which batch a worker was told to get a model ready: other pools leave that chunk to it."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """One column; who was told before counts for its own pool alone."""
    op.add_column("workers", sa.Column("preparing_for", sa.String(), nullable=True))
