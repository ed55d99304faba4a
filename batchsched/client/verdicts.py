"""What the server promises of a batch, and what it says when that comes into doubt."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Option(msgspec.Struct, frozen=True):
    """One thing that would make a deadline hold, and how probably; what its `kind` does not need is None."""

    kind: str
    probability: float
    deadline_at: datetime | None = None
    sites: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None
    model: str | None = None
    pool: str | None = None
    replicas: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """The answer at submission: can the deadline be kept, and at what carbon; where it cannot, what would make it so."""

    feasible: bool
    probability: float | None = None
    expected_finish_at: datetime | None = None
    expected_grams: float | None = None
    expected_grams_run_now: float | None = None
    reason: str = ""
    options: tuple[Option, ...] = ()


class Risk(msgspec.Struct, frozen=True):
    """A promised deadline that is in doubt: since when, and how probable it was then."""

    since: datetime
    probability: float
    deadline_at: datetime | None = None
    expected_finish_at: datetime | None = None
    reason: str = ""
    options: tuple[Option, ...] = ()
