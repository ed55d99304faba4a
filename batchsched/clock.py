"""Time and randomness as ports, so that the same code runs in production, in tests and in simulation."""

from __future__ import annotations

import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def now(self) -> datetime:
        """Aware UTC time of day: may jump; for deadlines, forecasts and the record."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin: never jumps back; for durations and leases within one process."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Aware UTC time of day."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds, never going back."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told: for tests and simulation."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """The instant it was set to."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Move forward; jumping back is `set_wall`'s business."""
        self._now += timedelta(seconds=seconds)
        self._elapsed_s += seconds

    def set_wall(self, now: datetime) -> None:
        """Let the time of day jump, as an NTP step does, without the monotonic clock noticing."""
        self._now = now.astimezone(UTC)


class IdSource(Protocol):
    """Where new identifiers come from."""

    def new(self, prefix: str) -> str:
        """An identifier `prefix_...` that was never handed out before."""
        ...


class RandomIds:
    """Unguessable identifiers: 96 bits from the operating system."""

    def new(self, prefix: str) -> str:
        """`prefix_` and 24 hexadecimal digits."""
        return f"{prefix}_{secrets.token_hex(12)}"


class SeededIds:
    """Repeatable identifiers, for tests and simulation only."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def new(self, prefix: str) -> str:
        """`prefix_` and 24 hexadecimal digits drawn from the seed."""
        return f"{prefix}_{self._random.getrandbits(96):024x}"
