"""Which chunks have requests that an engine refuses where it makes drafts."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    """Add a column; of the chunks that are there it is not known, and workers tell of them once they meet them."""
    op.add_column("chunks", sa.Column("plain", sa.Boolean(), nullable=False, server_default=sa.false()))
