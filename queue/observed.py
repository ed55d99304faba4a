"""Tables of what workers see of their machines: their meters, and what is left beside others' work; `tables.py` lists them with
the others."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, Column, Index
from sqlmodel import Field, SQLModel


class SpareHourRow(SQLModel, table=True):
    """What a shared server had for offline work in one hour of the week (0 is Monday 00:00 UTC).

    `samples`: offline tokens a second, of past quarters of an hour, the latest last; `sampled_at`: when the last of
    these began, where that is known; `began_at`: of the quarter that is being summed in `seconds` and `tokens`.
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
    sampled_at: datetime | None = None


_KIND_KNOWN = "kind IN ('idle', 'metered', 'others', 'waste')"


class SpendingRow(SQLModel, table=True):
    """What a pool's meters saw in one hour: all of it (`metered`), and the parts that are no chunk's, which the ledger lacks."""

    __tablename__ = "spending"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint(_KIND_KNOWN, name="kind_known"),
        CheckConstraint("energy_j >= 0 AND seconds >= 0", name="amounts_positive"),
        Index("spending_by_batch", "batch_id"),
    )

    pool: str = Field(primary_key=True)
    hour: datetime = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    batch_id: str = Field(default="", primary_key=True)
    energy_source: str = Field(primary_key=True)
    seconds: float = 0.0
    energy_j: float = 0.0


class SpendingBesideRow(SQLModel, table=True):
    """For how long replicas of another pool were there for a pool's own, in modes of two pools. Its joules are in SpendingRow."""

    __tablename__ = "spending_beside"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint(_KIND_KNOWN, name="kind_known"),
        CheckConstraint("beside_s >= 0", name="beside_positive"),
        Index("spending_beside_by_batch", "batch_id"),
    )

    pool: str = Field(primary_key=True)
    hour: datetime = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    batch_id: str = Field(default="", primary_key=True)
    energy_source: str = Field(primary_key=True)
    beside_pool: str = Field(default="", primary_key=True)
    """The other one; empty where it did not say."""
    beside_s: float = 0.0
