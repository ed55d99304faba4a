"""What meters say beyond the joules of the GPUs: the host's, a mark, and what an idle replica draws."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns; earlier rows have no host part."""
    with op.batch_alter_table("ledger") as ledger:
        ledger.add_column(sa.Column("host_j", sa.Float(), nullable=False, server_default="0"))
        ledger.add_column(sa.Column("host_source", AutoString(), nullable=False, server_default="unmeasured"))
        ledger.add_column(sa.Column("mark", AutoString(), nullable=False, server_default=""))
        ledger.create_check_constraint("host_positive", "host_j >= 0")
    op.add_column("workers", sa.Column("idle_w", sa.Float(), nullable=True))
