"""Ways to serve: in which workers can start engines, how many drafts were made and stayed, and what went between two pools."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
_DRAFTS = ("drafts", "draft_tokens", "accepted_tokens")


def upgrade() -> None:
    """Add columns: of workers that are there nothing is known, and what was done before had no drafts."""
    op.add_column("workers", sa.Column("modes", sa.JSON(), nullable=True))
    for table in ("ledger", "trials"):
        for name in _DRAFTS:
            op.add_column(table, sa.Column(name, sa.Float(), nullable=False, server_default="0"))
    for name in ("sent_bytes", "sent_tokens"):
        op.add_column("trials", sa.Column(name, sa.Float(), nullable=False, server_default="0"))
    op.add_column("trials", sa.Column("link_bytes_per_s", sa.Float(), nullable=True))
