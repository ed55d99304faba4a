"""Jobs that recur, and what came of each time."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Two new tables."""
    op.create_table(
        "schedules",
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("cron", AutoString(), nullable=False),
        sa.Column("timezone", AutoString(), nullable=False),
        sa.Column("file", AutoString(), nullable=False),
        sa.Column("endpoint", AutoString(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("missed", AutoString(), nullable=False),
        sa.Column("overlap", sa.Boolean(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("paused_at", UTCDateTime(), nullable=True),
        sa.Column("looked_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
        sa.CheckConstraint("missed IN ('all', 'once', 'skip')", name="missed_known"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("schedule", AutoString(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("file", AutoString(), nullable=False),
        sa.Column("mark", AutoString(), nullable=False),
        sa.Column("batch_id", AutoString(), nullable=True),
        sa.Column("note", AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("state IN ('failed', 'skipped', 'submitted')", name="release_state_known"),
        sa.CheckConstraint("(state = 'submitted') = (batch_id IS NOT NULL)", name="submitted_has_batch"),
    )
    op.create_index("releases_by_schedule", "releases", ["tenant", "schedule", "id"])
