"""What our models see of a zone and of what lies beside it: only what was known, and no worse for what falls silent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from batchsched.clock import ManualClock
from batchsched.forecasts import Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.gathered import MOST_BESIDE, Gathered
from batchsched.forecasts.models import Model
from batchsched.forecasts.own import Own
from batchsched.forecasts.persistence import hour_of, instant_of
from batchsched.forecasts.port import Generation
from batchsched.forecasts.zones import utc_offset_h

NOW = datetime(2026, 5, 20, 12, 20, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAYS = 100
RUN = np.random.default_rng(5).normal(0, 1, (DAYS + 90) * 24)
WEATHER = np.convolve(RUN, 0.97 ** np.arange(200))[: len(RUN)]
"""Comes over WEST, and reaches EAST a day later."""


def grid(zone: str, until: datetime, days: int = DAYS, *, late_h: int = 0) -> Iterator[Realised]:
    """Hours of a zone under that weather."""
    first = hour_of(NOW) - DAYS * 24
    for hour in range(hour_of(until) - days * 24, hour_of(until)):
        value = 300 + 20 * np.sin(hour % 24 / 24 * 2 * np.pi) + 15 * WEATHER[max(hour - first + 48 - late_h, 0)]
        yield Realised(zone, instant_of(hour), instant_of(hour + 1), max(float(value), 20.0), "meter", Signal())


def site(folder: Path, *zones: str, until: datetime = NOW) -> Archive:
    """An archive of some of the zones, WEST measured until a moment."""
    archive = Archive(folder)
    for zone in zones:
        archive.add_realised(grid(zone, until if zone == "WEST" else NOW, late_h=24 if zone == "EAST" else 0), NOW - DAY / 24)
    return archive


def own(archive: Archive) -> Own:
    return Own(archive, {"EAST": Signal()}, archive.folder / "models", ManualClock(NOW))


def error(archive: Archive, source: Own, now: datetime = NOW) -> float:
    """Of the first day of a forecast, g/kWh."""
    made = source.fetch_forecast("EAST", now)
    assert len(made.slots) == 96
    true = {value.start: value.intensity_g_per_kwh for value in grid("EAST", NOW + 2 * DAY, 10, late_h=24)}
    found = [slot.mean_g_per_kwh for slot in made.slots[:24]]
    assert all(mean is not None and np.isfinite(mean) for mean in found)
    return float(np.mean([abs(mean - true[slot.start]) for mean, slot in zip(found, made.slots, strict=False)]))  # type: ignore[operator]


@pytest.mark.slow
def test_other_zones_are_looked_at_and_their_silence_hurts_nothing(tmp_path: Path) -> None:
    both, alone = site(tmp_path / "both", "EAST", "WEST"), site(tmp_path / "alone", "EAST")
    told, untold = own(both), own(alone)
    with_west, without = error(both, told), error(alone, untold)
    assert with_west < 0.95 * without
    later = NOW + 2 * HOUR
    for archive in (both, alone):  # WEST says nothing any more
        archive.add_realised(grid("EAST", later, 1, late_h=24), later)
    assert error(both, told, later) < 1.2 * error(alone, untold, later)
    gone = site(tmp_path / "gone", "EAST")  # and has never been there, to a model that learnt with it
    (tmp_path / "both" / "models").rename(tmp_path / "gone" / "models")
    assert error(gone, own(gone)) < 1.3 * without


def test_nothing_that_came_later_is_seen(tmp_path: Path) -> None:
    archive = site(tmp_path, "EAST", "WEST")
    gathered = Gathered(archive)
    before = gathered.to_learn("EAST", Signal(), NOW)
    archive.add_realised(
        [Realised("WEST", v.start, v.end, 9000.0, "meter", Signal()) for v in grid("WEST", NOW + DAY, 3)], NOW + HOUR / 60
    )
    after = gathered.to_learn("EAST", Signal(), NOW)
    assert len(after.intensity) == DAYS * 24
    assert np.array_equal(before.intensity, after.intensity)
    assert np.array_equal(before.beside["WEST"].intensity, after.beside["WEST"].intensity)
    assert gathered.to_learn("EAST", Signal(), NOW + HOUR / 2).beside["WEST"].intensity[-1] == 9000


def test_zones_beside_are_of_the_signal_known_long_enough_and_not_too_many(tmp_path: Path) -> None:
    archive = site(tmp_path, "EAST", "WEST")
    archive.add_realised(grid("YOUNG", NOW, 20), NOW)
    archive.add_realised(grid("SILENT", NOW - 30 * DAY, 70), NOW)
    for value in grid("OTHER", NOW):
        archive.add_realised([Realised("OTHER", value.start, value.end, 1.0, "meter", Signal("marginal", "direct"))], NOW)
        break
    gathered = Gathered(archive)
    assert list(gathered.to_learn("EAST", Signal(), NOW).beside) == ["WEST"]
    for n in range(MOST_BESIDE):
        random = np.random.default_rng(n)
        noise = [Realised(f"N{n:02}", v.start, v.end, random.uniform(100, 900), "meter", Signal()) for v in grid("N", NOW, DAYS)]
        archive.add_realised(noise, NOW)
    chosen = gathered.to_learn("EAST", Signal(), NOW).beside
    assert len(chosen) == MOST_BESIDE
    assert "WEST" in chosen


def test_a_model_gets_what_it_has_learnt_with(tmp_path: Path) -> None:
    gathered = Gathered(site(tmp_path, "EAST", "WEST"))
    model = Model.fit(gathered.to_learn("EAST", Signal(), NOW), NOW)
    seen = Gathered(site(tmp_path / "2", "EAST", "ELSE")).to_forecast(model, Signal(), NOW)
    assert list(seen.beside) == ["WEST"]
    assert np.isnan(seen.beside["WEST"].intensity).all()
    assert np.isfinite(model.predict(seen, NOW)).all()


def power(zone: str, until: datetime, days: int = DAYS) -> Iterator[Generation]:
    """Wind and gas, all of the time."""
    for hour in range(hour_of(until) - days * 24, hour_of(until)):
        mw = {"gas": 1000.0 + hour % 24, "wind": 500.0 + hour % 7, "storage": -100.0}
        yield Generation(zone, instant_of(hour), instant_of(hour + 1), "meter", mw)


@pytest.mark.slow
def test_generation_is_seen_as_it_was_known_and_its_silence_leaves_a_forecast(tmp_path: Path) -> None:
    archive = site(tmp_path, "EAST", "WEST")
    for zone in ("EAST", "WEST"):
        archive.add_generation(power(zone, NOW - HOUR), NOW)
    gathered = Gathered(archive)
    seen = gathered.to_learn("EAST", Signal(), NOW)
    archive.add_generation(power("EAST", NOW, 1), NOW + HOUR)
    again = gathered.to_learn("EAST", Signal(), NOW)
    assert sorted(seen.mix) == sorted(seen.beside["WEST"].mix) == ["gas", "wind"]
    assert np.array_equal(seen.mix["wind"], again.mix["wind"], equal_nan=True)
    assert np.isnan(seen.mix["wind"][-1])
    assert gathered.to_learn("EAST", Signal(), NOW + HOUR).mix["wind"][-2] == 500 + (hour_of(NOW) - 1) % 7
    model = Model.fit(seen, NOW)
    assert model.profile.sources == ("gas", "wind")
    assert model.profile.beside == {"WEST": True}
    for now in (NOW, NOW + 15 * DAY, NOW + 75 * DAY):  # nothing more comes of it, in the end beyond what a forecast looks at
        archive.add_realised(grid("EAST", now, 40, late_h=24), now)
        assert np.isfinite(model.predict(gathered.to_forecast(model, Signal(), now), now)).all()
    assert gathered.to_learn("EAST", Signal(), NOW + 75 * DAY).mix == {}


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("CISO", -8), ("US-CAL-CISO", -8), ("US-NE-ISNE", -5), ("PJM", -5), ("DE", 1), ("AU-NSW", 10), ("AUS_QLD", 10), ("my", 0)],
)
def test_winter_time(zone: str, hours: int) -> None:
    assert utc_offset_h(zone) == hours
