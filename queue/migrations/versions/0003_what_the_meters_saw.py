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
    _books()


def _books() -> None:
    op.create_table(
        "books",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"]),
        sa.PrimaryKeyConstraint("batch_id"),
    )
    op.create_index("ix_books_due_at", "books", ["due_at"])
    op.execute(
        "INSERT INTO books (batch_id, number, due_at) SELECT id, 0, created_at FROM batches "
        "WHERE state IN ('completed', 'failed', 'expired', 'cancelled')"
    )
    op.create_table(
        "postings",
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("posted_at", UTCDateTime(), nullable=False),
        *(sa.Column(name, AutoString(), nullable=False) for name in ("kind", "pool", "site", "zone")),
        sa.Column("hour", UTCDateTime(), nullable=False),
        sa.Column("energy_source", AutoString(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.Column("pue", sa.Float(), nullable=False),
        sa.Column("intensity_g_per_kwh", sa.Float(), nullable=True),
        sa.Column("intensity_source", AutoString(), nullable=False),
        sa.Column("signal", AutoString(), nullable=False),
        sa.Column("grams", sa.Float(), nullable=True),
        sa.Column("why", AutoString(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"]),
        sa.PrimaryKeyConstraint("batch_id", "number"),
        sa.CheckConstraint("kind IN ('waste', 'work')", name="kind_known"),
    )
