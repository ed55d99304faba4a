"""What profile runs measured."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """One new table."""
    op.create_table(
        "trials",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=False),
        sa.Column("qps", sa.Float(), nullable=True),
        sa.Column("busy_s", sa.Float(), nullable=False),
        sa.Column("startup_s", sa.Float(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.Column("energy_source", AutoString(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("energy_j >= 0 AND busy_s > 0", name="amounts_positive"),
    )
    op.create_index("trials_by_age", "trials", ["ended_at", "id"])
