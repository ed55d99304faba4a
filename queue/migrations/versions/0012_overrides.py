"""What operators decided over the plan's head."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """One new table; nothing is overridden."""
    op.create_table(
        "overrides",
        sa.Column("what", AutoString(), nullable=False),
        sa.Column("how", AutoString(), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("until", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("what"),
        sa.CheckConstraint("how IN ('frozen', 'cordoned', 'drained')", name="override_known"),
    )
