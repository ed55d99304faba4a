"""For how long a replica of another pool was there for work, and waited: in modes of two pools."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0030"
down_revision = "0029"
_KEY = ("pool", "hour", "kind", "batch_id", "energy_source")


def upgrade() -> None:
    """Of the ledger's rows so far it was not told; of what no chunk was charged for nothing was counted."""
    with op.batch_alter_table("ledger") as ledger:
        ledger.add_column(sa.Column("beside_pool", AutoString(), nullable=True))
        ledger.add_column(sa.Column("beside_s", sa.Float(), nullable=False, server_default="0"))
        ledger.create_check_constraint("beside_positive", "beside_s >= 0")
    _spending()


def _spending() -> None:
    """Made anew, since its key grows."""
    op.drop_index("spending_by_batch", "spending")
    op.rename_table("spending", "spending_before")
    op.create_table(
        "spending",
        *(sa.Column(name, UTCDateTime() if name == "hour" else AutoString(), nullable=False) for name in _KEY),
        sa.Column("beside_pool", AutoString(), nullable=False, server_default=""),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("energy_j", sa.Float(), nullable=False),
        sa.Column("beside_s", sa.Float(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint(*_KEY, "beside_pool"),
        sa.CheckConstraint("kind IN ('idle', 'metered', 'others', 'waste')", name="kind_known"),
        sa.CheckConstraint("energy_j >= 0 AND seconds >= 0", name="amounts_positive"),
        sa.CheckConstraint("beside_s >= 0", name="beside_positive"),
    )
    same = ", ".join([*_KEY, "seconds", "energy_j"])
    op.execute(f"INSERT INTO spending ({same}) SELECT {same} FROM spending_before")  # noqa: S608 - names from above
    op.drop_table("spending_before")
    op.create_index("spending_by_batch", "spending", ["batch_id"])
