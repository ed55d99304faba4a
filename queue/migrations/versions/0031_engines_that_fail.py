"""Workers whose engines do not start: since when, how often in a row, and why."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Add columns; of the workers that are there nothing is known, and they tell with their next heartbeat."""
    op.add_column("workers", sa.Column("failing_since", UTCDateTime(), nullable=True))
    op.add_column("workers", sa.Column("failing_times", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("failing_why", AutoString(), nullable=False, server_default=""))
