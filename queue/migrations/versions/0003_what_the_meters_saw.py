"""What pools' meters saw, hour by hour."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """One new table, and how far each worker has told of it."""
    op.add_column("workers", sa.Column("spent_number", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "spending",
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("hour", UTCDateTime(), nullable=False),
        sa.Column("kind", AutoString(), nullable=False),
        sa.Column("batch_id", AutoString(), nullable=False),
        sa.Column("energy_source", AutoString(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pool", "hour", "kind", "batch_id", "energy_source"),
        sa.CheckConstraint("kind IN ('idle', 'metered', 'others', 'waste')", name="kind_known"),
        sa.CheckConstraint("energy_j >= 0 AND seconds >= 0", name="amounts_positive"),
    )
    op.create_index("spending_by_batch", "spending", ["batch_id"])
