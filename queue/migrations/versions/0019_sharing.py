"""Which server of online users a worker has work for, and with whom it keeps one budget there."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add two columns; workers say it with their next heartbeat."""
    op.add_column("workers", sa.Column("spare_server", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("spare_desk", sa.String(), nullable=True))
