"""Which suspects of a chunk met errors only."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add a column; the suspects that there are count as lines that an engine may have died of, as they did so far."""
    op.add_column("chunks", sa.Column("erring", sa.JSON(), nullable=False, server_default="[]"))
