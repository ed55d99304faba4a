"""What each launcher was told to run, and in how many places it fails."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Two columns: until a launcher asks again it was told nothing, and says nothing of failures."""
    op.add_column("launchers", sa.Column("failing", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("launchers", sa.Column("share", sa.Integer(), nullable=False, server_default="0"))
