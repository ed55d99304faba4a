"""How long the answers of a span of work were."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One column of the ledger; what was entered before has none."""
    op.add_column("ledger", sa.Column("lengths", sa.JSON(none_as_null=True), nullable=True))
