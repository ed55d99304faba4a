"""Windows of pools, and what operators decided on them."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0023"
down_revision = "0021"


def upgrade() -> None:
    """One new table; what the configuration declares needs no row."""
    op.create_table(
        "windows",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=True),
        sa.Column("cron", AutoString(), nullable=True),
        sa.Column("duration", AutoString(), nullable=True),
        sa.Column("timezone", AutoString(), nullable=True),
        sa.Column("share", sa.Float(), nullable=True),
        sa.Column("max_intensity_g_per_kwh", sa.Float(), nullable=True),
        sa.Column("only_if_below_forecast_percentile", sa.Float(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("paused_at", UTCDateTime(), nullable=True),
        sa.Column("paused_until", UTCDateTime(), nullable=True),
        sa.Column("skipped", sa.JSON(), nullable=False),
        sa.Column("extended", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.CheckConstraint(
            "(pool IS NULL) = (cron IS NULL) AND (pool IS NULL) = (duration IS NULL) AND (pool IS NULL) = (timezone IS NULL) "
            "AND (pool IS NULL) = (share IS NULL)",
            name="declared_whole",
        ),
        sa.CheckConstraint("share > 0 AND share <= 1", name="share_is_a_part"),
        sa.CheckConstraint("paused_until IS NULL OR paused_at IS NOT NULL", name="pause_has_a_start"),
    )
