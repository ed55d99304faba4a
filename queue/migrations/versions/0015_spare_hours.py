"""What shared servers had for offline work, by hour of the week."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """One new table; nothing was seen yet."""
    op.create_table(
        "spare_hours",
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("server", AutoString(), nullable=False),
        sa.Column("hour_of_week", sa.Integer(), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("began_at", UTCDateTime(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pool", "server", "hour_of_week"),
        sa.CheckConstraint("hour_of_week BETWEEN 0 AND 167", name="hour_known"),
        sa.CheckConstraint("seconds >= 0 AND tokens >= 0", name="amounts_positive"),
    )
