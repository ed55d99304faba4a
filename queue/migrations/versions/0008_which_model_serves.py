"""Which model serves a chunk."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """One column of the chunks; none stands for the model that the requests name, as it was for all before."""
    op.add_column("chunks", sa.Column("model", AutoString(), nullable=True))
