"""Tenants, keys, several servers, retries, webhooks, the audit log."""

import secrets

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0002"
down_revision = "0001"


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", AutoString(), nullable=False, server_default="default")


def upgrade() -> None:
    """Add columns to what there was, then the new tables."""
    _files_and_batches()
    _the_rest_of_the_first_tables()
    _access()
    _several_servers()
    _one_store()
    _deliveries()
    _audit()
    _hot_rows()


def _files_and_batches() -> None:
    op.add_column("files", _tenant())
    op.add_column("files", sa.Column("facts", sa.JSON(), nullable=True))
    op.create_index("files_by_tenant", "files", ["tenant", "created_at", "id"])
    op.create_index("files_by_expiry", "files", ["expires_at"])
    with op.batch_alter_table("batches") as batches:
        batches.add_column(_tenant())
        batches.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        batches.add_column(sa.Column("paused_at", UTCDateTime(), nullable=True))
        batches.add_column(sa.Column("round", sa.Integer(), nullable=False, server_default="0"))
        batches.add_column(sa.Column("reopen", sa.JSON(), nullable=True))
        batches.add_column(sa.Column("erased_at", UTCDateTime(), nullable=True))
        batches.create_check_constraint("round_positive", "round >= 0")
    op.create_index("batches_by_input", "batches", ["input_file_id"])
    op.create_index("batches_by_tenant", "batches", ["tenant", "created_at", "id"])


def _the_rest_of_the_first_tables() -> None:
    op.add_column("chunks", sa.Column("round", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("chunks", sa.Column("parts", sa.JSON(), nullable=False, server_default="[]"))
    _name_results()
    op.add_column("workers", sa.Column("protocol", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("workers", sa.Column("version", AutoString(), nullable=False, server_default=""))
    op.add_column("ledger", _tenant())
    op.create_index("ledger_by_tenant", "ledger", ["tenant", "started_at"])
    op.add_column("plans", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("plans", sa.Column("packed", sa.LargeBinary(), nullable=True))


def _name_results() -> None:
    """A chunk's results lay in one file, named for its position; from now on its row names them."""
    chunks = sa.table("chunks", *(sa.column(name) for name in ("id", "position", "result_bytes")), sa.column("parts", sa.JSON()))
    bind = op.get_bind()
    for row in bind.execute(sa.select(chunks).where(chunks.c.result_bytes > 0)).all():
        parts = [[f"/{row.position}.jsonl", 0, row.result_bytes]]
        bind.execute(sa.update(chunks).where(chunks.c.id == row.id).values(parts=parts))


def _access() -> None:
    op.create_table(
        "keys",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("digest", AutoString(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=True),
        sa.Column("last_used_at", UTCDateTime(), nullable=True),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("key", AutoString(), nullable=False),
        sa.Column("digest", AutoString(), nullable=False),
        sa.Column("batch_id", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])


def _several_servers() -> None:
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("server_id", AutoString(), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "tallies",
        sa.Column("batch_id", AutoString(), nullable=False),
        sa.Column("pool", AutoString(), nullable=False),
        sa.Column("requests", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "pool"),
    )
    op.create_table(
        "shares",
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("served_s", sa.Float(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant"),
    )


def _one_store() -> None:
    store = op.create_table(
        "store",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mark", AutoString(), nullable=False),
        sa.Column("placed", sa.Boolean(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_store"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(store, [{"id": 1, "mark": secrets.token_hex(12), "placed": False}])


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("hook", AutoString(), nullable=False),
        sa.Column("batch_id", AutoString(), nullable=False),
        sa.Column("type", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("last_error", AutoString(), nullable=True),
        sa.CheckConstraint("state IN ('delivered', 'given_up', 'pending')", name="state_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("deliveries_due", "deliveries", ["state", "due_at"])
    op.create_index("deliveries_by_batch", "deliveries", ["batch_id"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("actor", AutoString(), nullable=False),
        sa.Column("tenant", AutoString(), nullable=False),
        sa.Column("action", AutoString(), nullable=False),
        sa.Column("object_id", AutoString(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "id"])
    if op.get_bind().dialect.name == "sqlite":
        for word in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{word.lower()} BEFORE {word} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            )
        return
    # Differs because PostgreSQL's triggers call functions, and have a kind for TRUNCATE.
    op.execute(
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )


def _hot_rows() -> None:
    op.drop_index("chunks_leased", "chunks")
    leased = sa.text("state = 'leased'")
    op.create_index("chunks_leased", "chunks", ["worker_id"], sqlite_where=leased, postgresql_where=leased)
    resting = sa.text("not_before IS NOT NULL")
    op.create_index("chunks_resting", "chunks", ["not_before"], sqlite_where=resting, postgresql_where=resting)
    pending = sa.text("state = 'pending'")
    op.create_index("chunks_pending", "chunks", ["batch_id", "position"], sqlite_where=pending, postgresql_where=pending)
    if op.get_bind().dialect.name == "postgresql":
        # Room on each page for the next version of a row, which then needs no new index entry; the dead are cleared early.
        for table in ("batches", "chunks", "workers", "counters", "tallies", "shares"):
            op.execute(
                f"ALTER TABLE {table} SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, "
                "autovacuum_vacuum_threshold = 500, autovacuum_analyze_scale_factor = 0.02)"
            )
