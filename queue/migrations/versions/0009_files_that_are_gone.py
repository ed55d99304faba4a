"""What is remembered of files that were deleted."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """One new table, and a way to the result files of a batch."""
    op.create_table(
        "tombstones",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("batch_id", AutoString(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("deleted_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("tombstones_by_batch", "tombstones", ["batch_id"])
    op.create_index("files_by_name", "files", ["tenant", "filename"])
