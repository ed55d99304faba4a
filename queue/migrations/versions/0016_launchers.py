"""Who starts workers, which worker was started by whom, and how it did."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """A table, and three columns: of the workers that there are nobody said who started them."""
    op.create_table(
        "launchers",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("trouble", AutoString(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", "pool"),
    )
    op.add_column("workers", sa.Column("replica", AutoString(), nullable=False, server_default=""))
    op.add_column("workers", sa.Column("finished", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("failed", sa.Integer(), nullable=False, server_default="0"))
