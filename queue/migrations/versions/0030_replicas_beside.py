"""For how long a replica of another pool was there for work, and waited: in modes of two pools."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0030"
down_revision = "0029"
_KEY = ("pool", "hour", "kind", "batch_id", "energy_source", "beside_pool")


def upgrade() -> None:
    """Columns of the ledger, of whose rows so far it was not told; and a table for what no chunk was charged for."""
    with op.batch_alter_table("ledger") as ledger:
        ledger.add_column(sa.Column("beside_pool", AutoString(), nullable=True))
        ledger.add_column(sa.Column("beside_s", sa.Float(), nullable=False, server_default="0"))
        ledger.create_check_constraint("beside_positive", "beside_s >= 0")
    op.create_table(
        "spending_beside",
        *(sa.Column(name, UTCDateTime() if name == "hour" else AutoString(), nullable=False) for name in _KEY),
        sa.Column("beside_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint(*_KEY),
        sa.CheckConstraint("kind IN ('idle', 'metered', 'others', 'waste')", name="kind_known"),
        sa.CheckConstraint("beside_s >= 0", name="beside_positive"),
    )
    op.create_index("spending_beside_by_batch", "spending_beside", ["batch_id"])
