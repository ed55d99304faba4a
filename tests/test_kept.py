"""Answers that are kept for a while."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

from batchsched.clock import ManualClock
from batchsched.server.kept import Kept


def test_an_answer_is_kept_for_its_time_and_the_oldest_goes_first() -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    kept: Kept[int] = Kept(clock, for_s=10, most=2)
    numbers = count(1)
    assert [kept.get(key, lambda: next(numbers)) for key in "aab"] == [1, 1, 2]
    clock.advance(10)
    assert kept.get("a", lambda: next(numbers)) == 3
    assert kept.get("c", lambda: next(numbers)) == 4  # b, the oldest, is gone
    assert kept.get("a", lambda: next(numbers)) == 3
