"""When the last sample of what a shared server had was taken: it tells of the next hours."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import UTCDateTime

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Add a column; of the samples that are there nobody knows it, and the next quarter brings it."""
    op.add_column("spare_hours", sa.Column("sampled_at", UTCDateTime(), nullable=True))
