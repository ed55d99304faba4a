"""Who lets a job recur, whether the server that leads can find recurring jobs' files, and an index of what history forgets."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Two columns, empty for schedules that are there and a server that leads by now; and an index."""
    op.add_column("schedules", sa.Column("made_by", sa.String(), nullable=True))
    op.add_column("leadership", sa.Column("inputs", sa.Boolean(), nullable=True))
    op.create_index("releases_by_age", "releases", ["state", "at"])
