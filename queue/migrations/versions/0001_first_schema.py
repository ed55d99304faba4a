"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "batches",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("endpoint", AutoString(), nullable=False),
        sa.Column("input_file_id", AutoString(), nullable=False),
        sa.Column("completion_window", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("model", AutoString(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("deadline_at", UTCDateTime(), nullable=False),
        sa.Column("in_progress_at", UTCDateTime(), nullable=True),
        sa.Column("finalizing_at", UTCDateTime(), nullable=True),
        sa.Column("completed_at", UTCDateTime(), nullable=True),
        sa.Column("failed_at", UTCDateTime(), nullable=True),
        sa.Column("expired_at", UTCDateTime(), nullable=True),
        sa.Column("cancelling_at", UTCDateTime(), nullable=True),
        sa.Column("cancelled_at", UTCDateTime(), nullable=True),
        sa.Column("output_file_id", AutoString(), nullable=True),
        sa.Column("error_file_id", AutoString(), nullable=True),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=True),
        sa.Column("verdict", sa.JSON(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("input_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_tokens_total", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('cancelled', 'cancelling', 'completed', 'expired', 'failed', 'finalizing', 'in_progress', 'validating')",
            name="state_known",
        ),
        sa.CheckConstraint("completed + failed <= total", name="counts_within_total"),
        sa.CheckConstraint("total >= 0 AND completed >= 0 AND failed >= 0", name="counts_positive"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("batches_by_age", "batches", ["created_at", "id"], unique=False)
    op.create_index("batches_by_state", "batches", ["state", "deadline_at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "files",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("purpose", AutoString(), nullable=False),
        sa.Column("filename", AutoString(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.Column("status", AutoString(), nullable=False),
        sa.Column("status_details", AutoString(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint("status IN ('error', 'processed', 'uploaded')", name="status_known"),
        sa.CheckConstraint("bytes >= 0", name="bytes_positive"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_files_created_at"), "files", ["created_at"], unique=False)
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("made_at", UTCDateTime(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_plans_made_at"), "plans", ["made_at"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("host", AutoString(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("registered_at", UTCDateTime(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.Column("ready_models", sa.JSON(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'gone')", name="state_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "chunks",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("first_line", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("byte_start", sa.BigInteger(), nullable=False),
        sa.Column("byte_end", sa.BigInteger(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", AutoString(), nullable=True),
        sa.Column("pool", AutoString(), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("not_before", UTCDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=False),
        sa.Column("suspects", sa.JSON(), nullable=False),
        sa.CheckConstraint("(state = 'leased') = (lease_until IS NOT NULL)", name="lease_has_end"),
        sa.CheckConstraint("state <> 'done' OR completed + failed = lines", name="done_is_whole"),
        sa.CheckConstraint("state IN ('closed', 'done', 'leased', 'pending')", name="state_known"),
        sa.CheckConstraint("completed >= 0 AND failed >= 0 AND completed + failed <= lines", name="counts_within_lines"),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("batch_id", "position", name="chunk_once"),
    )
    op.create_index("chunks_by_state", "chunks", ["batch_id", "state", "position"], unique=False)
    op.create_index("chunks_leased", "chunks", ["state", "lease_until"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("chunk_id", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=False),
        sa.Column("busy_s", sa.Float(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.Column("energy_source", AutoString(), nullable=False),
        sa.Column("startup_s", sa.Float(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("ended_at >= started_at", name="span_forward"),
        sa.CheckConstraint("energy_j >= 0 AND busy_s >= 0", name="amounts_positive"),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ledger_by_batch", "ledger", ["batch_id", "started_at"], unique=False)
    op.create_index("ledger_by_chunk", "ledger", ["chunk_id", "started_at"], unique=False)
    op.create_index("ledger_by_pool", "ledger", ["pool", "ended_at"], unique=False)


def downgrade() -> None:
    """Remove every table."""
    for table in ("ledger", "chunks", "workers", "plans", "files", "counters", "batches"):
        op.drop_table(table)
