"""What batches took that are no longer kept."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """One new table; of what was removed before, nothing is known."""
    op.create_table(
        "forgotten",
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("hour", UTCDateTime(), nullable=False),
        sa.Column("energy_source", AutoString(), nullable=False),
        sa.Column("busy_s", sa.Float(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.Column("grams", sa.Float(), nullable=False),
        sa.Column("unknown_j", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pool", "model", "hour", "energy_source"),
        sa.CheckConstraint("energy_j >= 0 AND busy_s >= 0", name="amounts_positive"),
    )
