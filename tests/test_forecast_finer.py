"""Forecasts in the step of what is measured."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.forecasts import Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.finer import in_steps, step_of
from batchsched.forecasts.own import Own
from batchsched.forecasts.persistence import hour_of, instant_of
from tests.test_forecast_own import DAY, HOUR, NOW

QUARTER = HOUR / 4


def measured(step: timedelta, until_h: int, hours: int = 40 * 24) -> list[Realised]:
    """A day's wave in short slots."""

    def value(at: float) -> float:
        return 300 + 200 * math.sin(at / 24 * 2 * math.pi)

    first = instant_of(until_h - hours)
    count = int(hours * HOUR / step)
    middles = [(n + 0.5) * step for n in range(count)]
    return [
        Realised("GB", first + n * step, first + (n + 1) * step, value((first + middle).timestamp() / 3600), "meter", Signal())
        for n, middle in enumerate(middles)
    ]


@given(st.lists(st.floats(0, 900), min_size=1, max_size=30), st.sampled_from([QUARTER, HOUR / 2, HOUR]))
def test_the_mean_of_each_hour_is_kept_and_nothing_falls_below_zero(means: list[float], step: timedelta) -> None:
    slots = in_steps(hour_of(NOW), means, step)
    assert all(slot.end == after.start for slot, after in pairwise(slots))
    parts = HOUR // step
    values = [slot.mean_g_per_kwh or 0.0 for slot in slots]
    assert min(values) >= -1e-9
    assert [sum(values[n : n + parts]) / parts for n in range(0, len(values), parts)] == pytest.approx(means, abs=1e-6)


@pytest.mark.parametrize(("minutes", "step"), [(5, 15), (15, 15), (30, 30), (60, 60), (120, 60)])
def test_the_step_is_that_of_the_last_day(minutes: int, step: int) -> None:
    now = hour_of(NOW)
    before, last = measured(HOUR, now - 24), measured(timedelta(minutes=minutes), now, 24)
    assert step_of([*before, *last]) == timedelta(minutes=step)
    assert step_of([]) == HOUR


def test_own_forecasts_come_in_that_step(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.add_realised(measured(QUARTER, hour_of(NOW)), NOW)
    made = Own(archive, {"GB": Signal()}, tmp_path / "models", ManualClock(NOW)).fetch_forecast("GB", NOW)
    assert len(made.slots) == 4 * 96
    assert all(slot.quantiles and slot.end - slot.start == QUARTER for slot in made.slots)
    true = {value.start: value.intensity_g_per_kwh for value in measured(QUARTER, hour_of(NOW + DAY), 26)}
    inner = [slot for slot in made.slots[4:88] if slot.start in true]
    fine = sum(abs((slot.mean_g_per_kwh or 0) - true[slot.start]) for slot in inner)
    hourly = sum(abs((made.mean_over(at := slot.start.replace(minute=0), at + HOUR) or 0) - true[slot.start]) for slot in inner)
    assert fine < hourly / 4
    assert archive.add_forecast(made, NOW)
    assert archive.newest("GB", as_of=NOW) is not None
