"""What workers tell of themselves: bytes of their logs, and whether they can put another model into requests."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add columns; of workers that came earlier neither is known."""
    op.add_column("workers", sa.Column("logs_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("renames", sa.Boolean(), nullable=True))
