"""What the GPUs of workers suffer from."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add a column; of the workers that there are it is not known."""
    op.add_column("workers", sa.Column("ills", sa.JSON(), nullable=True))
