"""Tables of what workers see of their machines beside their work; `tables.py` lists them with the others."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, Column
from sqlmodel import Field, SQLModel


class SpareHourRow(SQLModel, table=True):
    """What a shared server had for offline work in one hour of the week (0 is Monday 00:00 UTC).

    `samples`: offline tokens a second, of past quarters of an hour, the latest last; `began_at`: of the quarter that is being
    summed in `seconds` and `tokens`.
    """

    __tablename__ = "spare_hours"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("hour_of_week BETWEEN 0 AND 167", name="hour_known"),
        CheckConstraint("seconds >= 0 AND tokens >= 0", name="amounts_positive"),
    )

    pool: str = Field(primary_key=True)
    server: str = Field(primary_key=True)
    hour_of_week: int = Field(primary_key=True)
    samples: list[float] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    began_at: datetime
    seconds: float = 0.0
    tokens: float = 0.0
