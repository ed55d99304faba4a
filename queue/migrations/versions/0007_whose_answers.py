"""Ways to the newest entries of the ledger: of a model on a pool, of a tenant's answers at an endpoint."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """One column, filled from the batches, and three indexes."""
    op.add_column("ledger", sa.Column("endpoint", AutoString(), nullable=False, server_default=""))
    op.execute(
        "UPDATE ledger SET endpoint = (SELECT endpoint FROM batches WHERE batches.id = ledger.batch_id) WHERE requests > 0"
    )
    answered = sa.text("requests > 0")
    where: dict[str, Any] = {"sqlite_where": answered, "postgresql_where": answered}
    op.create_index("ledger_speeds", "ledger", ["model", "pool", "id"])
    op.create_index("ledger_answers", "ledger", ["model", "endpoint", "id"], **where)
    op.create_index("ledger_own_answers", "ledger", ["tenant", "model", "endpoint", "id"], **where)
