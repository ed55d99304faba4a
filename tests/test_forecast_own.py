"""Our own forecasts as a source: learnt from the archive as it was known, kept over restarts, honest with little history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from batchsched.clock import ManualClock
from batchsched.errors import ForecastUnavailable
from batchsched.forecasts import ForecastSlot, IntensityForecast, Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.blended import strange
from batchsched.forecasts.calibration import Calibrator
from batchsched.forecasts.models import Model, Rows
from batchsched.forecasts.models.model import VERSION
from batchsched.forecasts.own import Own
from batchsched.forecasts.persistence import persisted
from batchsched.forecasts.port import describe
from batchsched.forecasts.scenarios import scenarios
from batchsched.forecasts.stored import load, packed, store

NOW = datetime(2026, 5, 20, 12, 20, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MARGINAL = Signal("marginal", "direct")


def sunny(until: datetime, days: int, zone: str = "DE") -> Iterator[Realised]:
    """A grid with much sun at noon, and weather that lasts some days."""
    random, weather = np.random.default_rng(1), 0.0
    first = until.replace(minute=0, second=0, microsecond=0) - days * DAY
    for n in range(days * 24):
        weather = 0.97 * weather + random.normal(0, 6)
        at = first + n * HOUR
        value = 320 - 140 * max(0.0, math.sin((at.hour - 6) / 12 * math.pi)) + weather
        yield Realised(zone, at, at + HOUR, value, "meter", Signal())


class Site:
    """An archive with some days of a zone, and the source over it."""

    def __init__(self, folder: Path, days: int = 40) -> None:
        self.folder = folder
        self.clock = ManualClock(NOW)
        self.archive = Archive(folder / "archive")
        self.archive.add_realised(sunny(NOW, days), NOW)
        self.own = self.begin()

    @staticmethod
    def forecast_of(at: datetime, value: float = 700.0) -> IntensityForecast:
        """Somebody else's, far too high, and honest about it."""
        band = (0.0, value / 2, value, 2 * value, 3 * value)
        first = at.replace(minute=0, second=0, microsecond=0)
        slots = (ForecastSlot(first + n * HOUR, first + (n + 1) * HOUR, value, band) for n in range(98))
        return IntensityForecast("DE", at, "told", Signal(), tuple(slots))

    def begin(self) -> Own:
        return Own(self.archive, {"DE": Signal(), "FR": Signal()}, self.folder / "models", self.clock)

    def issue(self, now: datetime = NOW) -> IntensityForecast:
        made = self.own.fetch_forecast("DE", now)
        self.archive.add_forecast(made, now)
        return made


def test_four_days_by_the_hour_with_quantiles(tmp_path: Path) -> None:
    made = Site(tmp_path).issue()
    assert (made.provider, made.issued_at, made.signal) == ("own", NOW, Signal())
    assert [slot.start for slot in made.slots] == [NOW.replace(minute=0) + n * HOUR for n in range(96)]
    for slot in made.slots:
        assert slot.quantiles is not None
        assert list(slot.quantiles) == sorted(slot.quantiles)
    assert made.mean_over(NOW.replace(hour=23), NOW + 12 * HOUR) > made.mean_over(NOW, NOW + HOUR)  # type: ignore[operator]


def test_one_issue_an_hour(tmp_path: Path) -> None:
    site = Site(tmp_path)
    first = site.issue()
    site.archive.add_realised([Realised("DE", NOW - HOUR / 3, NOW, 5.0, "meter", Signal())], NOW)
    again = site.issue(NOW + HOUR / 2)
    assert again.issued_at == first.issued_at
    assert site.issue(NOW + HOUR).issued_at == NOW + HOUR


def test_little_history_is_said(tmp_path: Path) -> None:
    made = Site(tmp_path).issue()
    assert "seasonal naive (too little history" in describe(made)
    with pytest.raises(ForecastUnavailable, match="Nothing that came true in 'FR' is known yet"):
        Site(tmp_path / "2").own.fetch_forecast("FR", NOW)
    with pytest.raises(ForecastUnavailable, match="No source measures 'PL'"):
        Site(tmp_path / "3").own.fetch_forecast("PL", NOW)


def test_it_holds_back_while_somebody_else_knows_better(tmp_path: Path) -> None:
    for days, zones in ((40, []), (45, ["DE"])):
        site = Site(tmp_path / str(days), days)
        assert site.own.zones() == ["DE"]
        site.own = Own(site.archive, {"DE": Signal()}, tmp_path / "models", site.clock, {"DE": ["told"]})
        assert site.own.zones() == ["DE"]
        site.archive.add_forecast(Site.forecast_of(NOW - HOUR), NOW - HOUR)
        assert site.own.zones() == zones


def test_a_model_of_another_version_is_made_anew(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.issue()
    path = next((tmp_path / "models").glob("*.model"))
    model = load(path, Model)
    assert model is not None
    store(path, packed(replace(model, version="0")))
    site.issue(NOW + HOUR)
    again = load(path, Model)
    assert again is not None
    assert again.version == VERSION


def test_another_signal_than_the_zones_is_not_learnt_from(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.own = Own(site.archive, {"DE": MARGINAL}, tmp_path / "models", site.clock)
    with pytest.raises(ForecastUnavailable):
        site.issue()


def test_what_comes_later_changes_nothing(tmp_path: Path) -> None:
    """The archives differ in what reached them after the instant: measurements, a revision and a forecast."""
    one, two = Site(tmp_path / "one"), Site(tmp_path / "two")
    later = NOW + timedelta(seconds=1)
    known = list(sunny(NOW, 3))[-5:]
    two.archive.add_realised([Realised("DE", v.start, v.end, 9000.0, v.provider, v.signal) for v in known], later)
    for site in (one, two):
        site.own = Own(site.archive, {"DE": Signal()}, site.folder / "models", site.clock, {"DE": ["told"]})
        site.archive.add_forecast(Site.forecast_of(NOW - DAY, 250.0), NOW - DAY)
    two.archive.add_forecast(Site.forecast_of(NOW - HOUR), later)
    two.archive.add_realised([Realised("DE", NOW, NOW + HOUR, 9000.0, "meter", Signal())], NOW + HOUR)
    assert one.issue() == two.own.fetch_forecast("DE", NOW)
    assert two.own.fetch_forecast("DE", NOW + HOUR).slots != one.own.fetch_forecast("DE", NOW + HOUR).slots


@pytest.mark.slow
def test_a_model_is_kept_over_a_restart_and_learnt_anew_after_a_week(tmp_path: Path) -> None:
    site = Site(tmp_path, days=90)
    made = site.issue()
    assert "naive" not in made.note
    model = next((tmp_path / "models").glob("*.model"))
    stored, before = model.read_bytes(), model.stat().st_mtime_ns
    site.own = site.begin()
    after = site.issue(NOW + HOUR)
    assert model.stat().st_mtime_ns == before
    assert after.note == made.note
    last = made.slots[-1].mean_g_per_kwh
    assert last == pytest.approx(after.slots[-2].mean_g_per_kwh, rel=0.2)
    site.archive.add_realised(sunny(NOW + 7 * DAY, 7), NOW + 7 * DAY)
    site.issue(NOW + 7 * DAY)
    assert model.read_bytes() != stored


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x81\xa4zone\xa2DE"])
def test_a_damaged_model_is_made_anew(tmp_path: Path, content: bytes) -> None:
    site = Site(tmp_path)
    made = site.issue()
    for path in (tmp_path / "models").iterdir():
        path.write_bytes(content)
    assert len(site.issue(NOW + HOUR).slots) == len(made.slots)


def test_training_says_what_it_learnt(tmp_path: Path) -> None:
    trained, _ = Site(tmp_path).own.train("DE", NOW)
    assert (trained.zone, trained.known_h, trained.trained_until) == ("DE", 40 * 24, NOW)
    assert trained.held_out_from == NOW.replace(minute=0) - 20 * DAY
    assert trained.mape is not None
    assert 0 < trained.mape < 0.2
    young = Site(tmp_path / "short", days=2)
    assert young.own.train("DE", NOW)[0].mape is None
    young.issue()
    stored = {path.suffix for path in (tmp_path / "short" / "models").iterdir()}
    assert stored == {".blend", ".errors", ".lock", ".model"}


def provider_of(truth: list[Realised]) -> Iterator[IntensityForecast]:
    """Somebody who knows the future to a few per cent, every six hours for two days."""
    random = np.random.default_rng(2)
    for n in range(0, len(truth), 6):
        ahead = truth[n : n + 48]
        slots = tuple(ForecastSlot(v.start, v.end, v.intensity_g_per_kwh * random.normal(1, 0.02)) for v in ahead)
        yield IntensityForecast("DE", ahead[0].start, "grid", Signal(), slots)


def test_a_good_provider_is_followed(tmp_path: Path) -> None:
    """Blended with it, ours is nearer to what comes true than alone, and what it says later changes nothing."""
    truth = list(sunny(NOW + 2 * DAY, 62))
    errors: dict[bool, float] = {}
    for blended in (False, True):
        archive = Archive(tmp_path / str(blended) / "archive")
        archive.add_realised([v for v in truth if v.end <= NOW], NOW)
        for forecast in provider_of(truth):
            archive.add_forecast(forecast, forecast.issued_at)
        others = {"DE": ("none", "grid")} if blended else {}
        made = Own(archive, {"DE": Signal()}, tmp_path / str(blended), ManualClock(NOW), others).fetch_forecast("DE", NOW)
        assert ("blended with grid" in made.note) is blended
        true = {v.start: v.intensity_g_per_kwh for v in truth}
        known = [(slot.mean_g_per_kwh, true[slot.start]) for slot in made.slots[:36] if slot.start in true]
        errors[blended] = float(np.mean([abs(mean - value) / value for mean, value in known if mean is not None]))
        assert len(known) == 36
    assert errors[True] < 0.05
    assert errors[True] < errors[False] / 2


@pytest.mark.parametrize("factor", [0.0, 20.0, None])
def test_a_provider_that_breaks_is_left_alone_at_once(tmp_path: Path, factor: float | None) -> None:
    """Its skill of weeks does not carry nonsense into ours: the issue before the broken one counts."""
    truth = list(sunny(NOW + 4 * DAY, 62))
    means: list[list[float | None]] = []
    for broken in (False, True):
        archive = Archive(tmp_path / str(broken) / "archive")
        archive.add_realised([v for v in truth if v.end <= NOW], NOW)
        issues = [one for one in provider_of(truth) if one.issued_at < NOW]
        for forecast in issues:
            archive.add_forecast(forecast, forecast.issued_at)
        if broken:
            at = issues[-1].issued_at + HOUR
            slots = tuple(
                msgspec.structs.replace(
                    slot, mean_g_per_kwh=(slot.mean_g_per_kwh or 0) * factor if factor is not None else 250.0, quantiles=None
                )
                for slot in issues[-1].slots
            )
            archive.add_forecast(msgspec.structs.replace(issues[-1], issued_at=at, slots=slots), at)
        own = Own(archive, {"DE": Signal()}, tmp_path / str(broken), ManualClock(NOW), {"DE": ["grid"]})
        means.append([slot.mean_g_per_kwh for slot in own.fetch_forecast("DE", NOW).slots])
    assert means[0] == means[1]


def test_a_provider_that_loses_a_digit_is_left_out_until_its_outcomes_are_known(tmp_path: Path) -> None:
    """Each value by itself may be true of this zone; that all of them are so far from ours is new."""
    random = np.random.default_rng(3)
    truth = [
        msgspec.structs.replace(v, intensity_g_per_kwh=v.intensity_g_per_kwh * random.uniform(0.5, 1.5))
        for v in sunny(NOW + 4 * DAY, 62)
    ]
    archive = Archive(tmp_path / "archive")
    archive.add_realised([v for v in truth if v.end <= NOW], NOW)
    issues = [one for one in provider_of(truth) if one.issued_at < NOW]
    for n, forecast in enumerate(issues, 1):
        scale = 0.1 if n == len(issues) else 1.0
        slots = (msgspec.structs.replace(slot, mean_g_per_kwh=(slot.mean_g_per_kwh or 0) * scale) for slot in forecast.slots)
        archive.add_forecast(msgspec.structs.replace(forecast, slots=tuple(slots)), forecast.issued_at)
    made = Own(archive, {"DE": Signal()}, tmp_path, ManualClock(NOW), {"DE": ["grid"]}).fetch_forecast("DE", NOW)
    assert "without grid" in describe(made)
    true = {v.start: v.intensity_g_per_kwh for v in truth}
    errors = [abs((slot.mean_g_per_kwh or 0) / true[slot.start] - 1) for slot in made.slots[:24]]
    assert np.mean(errors) < 0.4


@pytest.mark.parametrize(("factor", "far"), [(1.0, False), (1.2, False), (0.1, True), (2.2, True), (0.45, True)])
def test_what_is_strange_of_a_provider(factor: float, far: bool) -> None:
    """Beside its own past over our members: an error of a unit is, some tens of per cent are not."""
    random = np.random.default_rng(4)
    ours = random.normal(5.5, 0.3, (300, 96))
    theirs = ours + random.normal(0.05, 0.2, ours.shape) + random.normal(0, 0.08, (300, 1))
    theirs[100:110] += 2.0
    theirs[-3:] += math.log(factor)
    theirs[50:60] = theirs[:, 30:] = np.nan
    rows = Rows({"linear": ours}, np.full(300, np.nan), theirs, np.zeros(300))
    found = np.flatnonzero(strange(rows)).tolist()
    assert found == [*range(100, 110), *([297, 298, 299] if far else [])]
    assert not strange(Rows(rows.members, rows.outcome)).any()
    assert not strange(rows.cut(270, 300)).any()


def test_a_grid_that_never_changes_is_learnt_too(tmp_path: Path) -> None:
    archive, first = Archive(tmp_path), NOW.replace(minute=0)
    flat = (Realised("DE", first - n * HOUR, first - (n - 1) * HOUR, 24.0, "meter", Signal()) for n in range(1, 40 * 24))
    archive.add_realised(flat, NOW)
    own = Own(archive, {"DE": Signal()}, tmp_path / "models", ManualClock(NOW))
    trained, _ = own.train("DE", NOW)
    assert (trained.mape, trained.skill) == (0, None)
    assert [slot.mean_g_per_kwh for slot in own.fetch_forecast("DE", NOW).slots] == pytest.approx([24] * 96)


def test_its_licence_is_that_of_all_it_was_made_from(tmp_path: Path) -> None:
    """The measurements' and the provider's that it is blended with; so with what stands in for it."""
    site = Site(tmp_path, days=0)
    values = [msgspec.structs.replace(value, licence="CC0") for value in sunny(NOW, 45)]
    site.archive.add_realised(values, NOW)
    theirs = msgspec.structs.replace(next(provider_of(values[-48:])), provider="told", licence="CC-BY-4.0")
    site.archive.add_forecast(theirs, theirs.issued_at)
    own = Own(site.archive, {"DE": Signal()}, tmp_path / "models", site.clock, {"DE": ["told"]})
    made = own.fetch_forecast("DE", NOW)
    assert made.licence == "CC0; CC-BY-4.0"
    site.archive.add_forecast(made, NOW)
    kept = site.archive.newest("DE", as_of=NOW, provider="own")
    assert kept is not None
    assert (kept.licence, kept.note) == (made.licence, made.note)
    assert persisted("DE", values, NOW, NOW + DAY).licence == "CC0"  # type: ignore[union-attr]


def test_scenarios_from_what_is_kept(tmp_path: Path) -> None:
    """As the docs say how: the newest forecast of the archive, and the calibrator that lies in its folder."""
    site = Site(tmp_path)
    site.own = Own(site.archive, {"DE": Signal()}, site.archive.folder / "models", site.clock)
    site.issue()
    issued = site.archive.newest("DE", as_of=NOW, provider="own")
    assert issued is not None
    learnt = Calibrator.from_bytes((site.archive.folder / "models/DE.average-direct.errors").read_bytes())
    futures = scenarios({"DE": issued}, {"DE": learnt}, count=100, seed=1)["DE"]
    assert futures.shape == (100, 96)
    spread = np.array([slot.quantiles for slot in issued.slots[:90]])
    inside = (futures[:, :90] >= spread[:, 0]) & (futures[:, :90] <= spread[:, -1])
    assert 0.8 < inside.mean() < 0.97
