"""Models of our own: they learn a zone from its past, use nothing that was not known, and are kept with what made them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from batchsched.errors import ForecastUnavailable, InvalidValue
from batchsched.forecasts.models import Blend, History, Model, Rows, Weather
from batchsched.forecasts.models.history import Floats, filled, trailing_mean
from batchsched.forecasts.models.model import mean_log
from batchsched.forecasts.stored import load, packed, store

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEKS = 30
NOW = BEGAN + 26 * 168 * HOUR


def solar_zone(weeks: int = WEEKS, *, mix: bool = True, weather: bool = False) -> History:
    """Sun by day, slow wind, gas for the rest; deterministic."""
    random, hours = np.random.default_rng(7), weeks * 168
    sun = np.maximum(0, np.sin((np.arange(hours) % 24 - 6) / 12 * np.pi)) * 40
    wind = np.zeros(hours)
    for hour in range(1, hours):
        wind[hour] = 0.97 * wind[hour - 1] + random.normal() * 2
    wind = np.clip(20 + wind, 0, 45)
    gas = 100 - sun - wind
    sources = {"solar": sun, "wind": wind, "gas": gas} if mix else {}
    runs = np.arange(0, hours - 96, 24)
    known_wind = wind[runs[:, None] + np.arange(97).clip(0, 95)].astype(np.float32)
    issued = Weather(runs + int(BEGAN.timestamp() // 3600), {"wind": known_wind}) if weather else None
    return History("SUN", BEGAN, (gas * 4).astype(np.float32), {k: v.astype(np.float32) for k, v in sources.items()}, issued)


def errors(model: Model, history: History, days: int = 12) -> tuple[float, float]:
    """Mean error over four days ahead, of the model and of the last known day repeated."""
    ours, naive = [], []
    for day in range(days):
        at = NOW + day * 24 * HOUR
        place = history.index(at)
        came = history.intensity[place : place + 96]
        ours.append(np.abs(model.predict(history, at) - came).mean())
        naive.append(np.abs(np.tile(history.intensity[place - 24 : place], 4) - came).mean())
    return float(np.mean(ours)), float(np.mean(naive))


def wild_after(history: History, at: datetime) -> History:
    """The same past, another future."""
    place = history.index(at)

    def wild(values: Floats) -> Floats:
        return np.concatenate([values[:place], values[place:] * 50 + 1000]).astype(np.float32)

    weather = history.weather
    if weather:
        out = (weather.runs + weather.published_after_h > history.first_hour + place)[:, None]
        weather = replace(weather, values={name: np.where(out, 1e4, v).astype(np.float32) for name, v in weather.values.items()})
    mix = {name: wild(values) for name, values in history.mix.items()}
    return replace(history, intensity=wild(history.intensity), mix=mix, weather=weather)


@pytest.fixture(scope="module")
def history() -> History:
    return solar_zone(weather=True)


@pytest.fixture(scope="module")
def model(history: History) -> Model:
    return Model.fit(history, NOW)


@pytest.fixture(scope="module")
def blind() -> History:
    return solar_zone()


@pytest.fixture(scope="module")
def blind_model(blind: History) -> Model:
    return Model.fit(blind, NOW)


class TestModel:
    def test_it_betters_the_last_day_repeated(self, history: History, model: Model) -> None:
        ours, naive = errors(model, history)
        assert ours < 0.8 * naive
        assert model.name == "linear"

    def test_nothing_after_the_training_span_changes_it(self, history: History, model: Model) -> None:
        other = Model.fit(wild_after(history, NOW), NOW)
        assert np.array_equal(model.predict(history, NOW), other.predict(history, NOW))

    def test_nothing_after_the_issue_changes_a_forecast(self, history: History, model: Model) -> None:
        at = NOW + 77 * HOUR
        assert np.array_equal(model.predict(history, at), model.predict(wild_after(history, at), at))

    def test_a_leak_would_be_seen(self, history: History) -> None:
        leaking = Model.fit(wild_after(history, NOW), NOW + 96 * HOUR)
        sound = Model.fit(history, NOW + 96 * HOUR)
        assert not np.array_equal(leaking.predict(history, NOW), sound.predict(history, NOW))
        late = wild_after(history, NOW - HOUR)
        assert not np.array_equal(sound.predict(history, NOW), sound.predict(late, NOW))

    def test_reports_may_come_late(self, history: History, model: Model) -> None:
        late = model.predict(history, NOW, delay_h=3)
        assert np.array_equal(late, model.predict(wild_after(history, NOW - 3 * HOUR), NOW, delay_h=3))
        gone = replace(
            history, intensity=np.where(np.arange(len(history.intensity)) < history.index(NOW) - 3, history.intensity, np.nan)
        )
        assert np.allclose(late, model.predict(gone, NOW), rtol=0.02)
        assert np.isfinite(model.predict(history, NOW, delay_h=40)).all()

    def test_weather_that_is_known_helps(self, history: History, model: Model, blind: History, blind_model: Model) -> None:
        assert errors(model, history)[0] < 0.8 * errors(blind_model, blind)[0]

    def test_other_zones_are_looked_at_where_they_are_known(self, blind: History, blind_model: Model) -> None:
        wind = np.roll(blind.mix["wind"], -30)  # the same wind blows there 30 h earlier
        ahead = replace(blind, zone="WEST", intensity=np.roll(blind.intensity, -30), mix={**blind.mix, "wind": wind})
        both = replace(blind, beside={"WEST": ahead})
        model = Model.fit(both, NOW)
        assert errors(model, both)[0] < 0.97 * errors(blind_model, blind)[0]
        assert np.array_equal(model.predict(blind, NOW), blind_model.predict(blind, NOW))
        at = NOW + 5 * HOUR
        later = replace(both, beside={"WEST": wild_after(ahead, at)})
        assert np.array_equal(model.predict(both, at), model.predict(later, at))

    def test_intensity_alone_is_enough(self) -> None:
        bare = solar_zone(mix=False)
        ours, naive = errors(Model.fit(bare, NOW), bare, 6)
        assert ours < naive

    @pytest.mark.parametrize("days", [2, 20, 80])
    def test_too_short_a_past_is_answered_naively_and_says_so(self, days: int) -> None:
        bare, at = solar_zone(), BEGAN + days * 24 * HOUR
        model = Model.fit(bare, at)
        assert "naive" in model.name
        found = model.predict(bare, at)
        assert (found.shape, bool(np.isfinite(found).all())) == ((96,), True)
        assert np.array_equal(found, model.predict(wild_after(bare, at), at))

    def test_no_past_at_all(self) -> None:
        with pytest.raises(ForecastUnavailable, match="SUN"):
            Model.fit(solar_zone(), BEGAN + 3 * HOUR).predict(solar_zone(), BEGAN + 3 * HOUR)


class TestHistory:
    def test_gaps_are_closed_from_the_past_alone(self) -> None:
        values = np.arange(72, dtype=np.float32)
        values[[5, 30, 31, 54]] = np.nan
        assert filled(values)[[5, 30, 31, 54]].tolist() == [4, 6, 7, 6]
        assert np.array_equal(filled(values)[:40], filled(values[:40]), equal_nan=True)

    def test_trailing_means_know_only_what_lies_before(self) -> None:
        found = trailing_mean(np.array([1, 2, np.nan, 4], np.float32), 2)
        assert np.isnan(found[0])
        assert found[1:].tolist() == [1, 1.5, 2, 4]

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(InvalidValue, match="whole hour"):
            History("Z", BEGAN + 0.5 * HOUR, np.ones(5, np.float32))
        with pytest.raises(InvalidValue, match="generation mix"):
            History("Z", BEGAN, np.ones(5, np.float32), {"wind": np.ones(4, np.float32)})
        with pytest.raises(InvalidValue, match="'Y' beside 'Z'"):
            History("Z", BEGAN, np.ones(5, np.float32), beside={"Y": History("Y", BEGAN, np.ones(4, np.float32))})


def rows_of(history: History, model: Model, days: int, provider: Floats | None = None) -> Rows:
    """Hourly issues from NOW on, as they would have been made."""
    first = history.index(NOW)
    members = model.members(history, np.arange(first, first + days * 24))
    return Rows(members, np.log(history.intensity[first : first + days * 24]), provider)


def lived_through(blend: Blend, rows: Rows, zone: str = "SUN") -> Floats:
    """Day by day: learn from the day before, then forecast."""
    out = []
    for begin in range(0, len(rows.outcome), 24):
        known = replace(rows, outcome=np.where(np.arange(len(rows.outcome)) < begin, rows.outcome, np.nan))
        if begin:
            blend.learn(zone, known, begin - 24, begin)
        blend.weigh()
        out.append(blend.logs(zone, replace(rows, outcome=known.outcome), begin, begin + 24))
    return np.concatenate(out)


def late_error(history: History, logs: Floats) -> float:
    """Mean error of the logarithms from the eighth day on."""
    first = history.index(NOW)
    issues = np.arange(8 * 24, len(logs))
    came = np.log(history.intensity[first + issues[:, None] + np.arange(96)])
    return float(np.abs(logs[issues] - came).mean())


class TestBlend:
    DAYS = 20

    def oracle(self, blind: History, bias: float) -> Floats:
        first = blind.index(NOW)
        return np.asarray(np.log(blind.intensity[first + np.arange(self.DAYS * 24)[:, None] + np.arange(96)]) + bias)

    @pytest.mark.parametrize(("bias", "share"), [(0.0, 0.1), (0.3, 0.8)])
    def test_a_good_provider_is_followed_and_its_bias_taken_off(
        self, blind: History, blind_model: Model, bias: float, share: float
    ) -> None:
        rows = rows_of(blind, blind_model, self.DAYS, self.oracle(blind, bias))
        alone = late_error(blind, lived_through(Blend(), replace(rows, provider=None)))
        assert late_error(blind, lived_through(Blend(), rows)) < share * alone

    def test_a_bad_provider_does_no_harm(self, blind: History, blind_model: Model) -> None:
        noise = np.random.default_rng(3).normal(6, 1, (self.DAYS * 24, 96))
        rows = rows_of(blind, blind_model, self.DAYS, noise)
        alone = late_error(blind, lived_through(Blend(), replace(rows, provider=None)))
        assert late_error(blind, lived_through(Blend(), rows)) < 1.1 * alone

    def test_what_is_uncertain_is_forecast_by_its_harmonic_mean(self) -> None:
        logs = np.random.default_rng(5).normal(5, 0.3, 40 * 24)
        rows = Rows({"linear": np.full((len(logs), 96), 5, np.float32)}, logs.astype(np.float32))
        found = lived_through(Blend(), rows)[30 * 24 :]
        assert float(found.mean()) == pytest.approx(np.log(1 / np.mean(np.exp(-logs))), abs=0.02)
        certain = lived_through(Blend(), replace(rows, outcome=np.full(len(logs), 5, np.float32)))
        assert np.allclose(certain, 5, atol=1e-3)

    def test_an_error_that_comes_back_every_day_is_taken_off(self) -> None:
        hours = np.arange(40 * 24)
        daily = 0.1 * np.cos(hours * 2 * np.pi / 24)
        logs = 5 + daily + np.random.default_rng(5).normal(0, 0.1, len(hours))
        rows = Rows({"linear": np.full((len(hours), 96), 5, np.float32)}, logs.astype(np.float32))
        at_midnight = lived_through(Blend(), rows)[-24]
        share = float(at_midnight @ daily[:96] / (daily[:96] @ daily[:96]))
        assert share > 0.3

    def test_outcomes_enter_only_when_they_are_known(self, blind: History, blind_model: Model) -> None:
        rows = rows_of(blind, blind_model, 4)
        wild = replace(rows, outcome=np.where(np.arange(96) < 72, rows.outcome, 99.0))
        blend, leaking = Blend(), Blend()
        for one, given in ((blend, rows), (leaking, wild)):
            one.learn("SUN", given, 0, 72)
            one.weigh()
        at_72 = blend.logs("SUN", rows, 72, 73)
        assert np.array_equal(at_72, leaking.logs("SUN", wild, 72, 73))
        leaking.learn("SUN", wild, 72, 96)
        leaking.weigh()
        assert not np.array_equal(at_72, leaking.logs("SUN", wild, 72, 73))

    def test_a_zone_never_learnt_is_forecast_by_our_mean(self, blind: History, blind_model: Model) -> None:
        rows = rows_of(blind, blind_model, 1)
        assert np.array_equal(Blend().logs("SUN", rows, 0, 24), mean_log(dict(rows.members)))


class TestStored:
    def test_a_model_comes_back_the_same(self, history: History, model: Model, tmp_path: Path) -> None:
        store(tmp_path / "models" / "SUN", packed(model))
        again = load(tmp_path / "models" / "SUN", Model)
        assert again is not None
        assert (again.zone, again.trained_from, again.trained_until) == ("SUN", BEGAN, NOW)
        assert (again.profile.sources, list(again.profile.weather)) == (("solar", "wind", "gas"), ["wind"])
        assert np.array_equal(again.predict(history, NOW), model.predict(history, NOW))

    def test_what_cannot_be_read_is_nothing(self, tmp_path: Path) -> None:
        assert load(tmp_path / "SUN", Model) is None
        (tmp_path / "SUN").write_bytes(b"PK no model")
        assert load(tmp_path / "SUN", Model) is None

    def test_a_blend_comes_back_the_same(self, history: History, model: Model, tmp_path: Path) -> None:
        rows, blend = rows_of(history, model, 4), Blend()
        blend.learn("SUN", rows, 0, 72)
        blend.weigh()
        store(tmp_path / "blend", packed(blend))
        again = load(tmp_path / "blend", Blend)
        assert again is not None
        assert np.array_equal(again.logs("SUN", rows, 72, 96), blend.logs("SUN", rows, 72, 96))


def test_what_all_of_a_history_knew_is_the_history_itself() -> None:
    whole = solar_zone(mix=True)
    beside = replace(whole, zone="OTHER", beside={"SUN": whole})
    end = BEGAN + len(whole.intensity) * HOUR
    assert beside.until(end) is beside
    cut = beside.until(NOW)
    assert cut is not beside
    assert len(cut.beside["SUN"].intensity) == 26 * 168
    late = solar_zone(weather=True)
    assert late.until(end) is late
    earlier = late.until(NOW).weather
    assert earlier is not None
    assert late.weather is not None
    assert len(earlier.runs) < len(late.weather.runs)


def test_what_others_look_at_is_worked_out_once_and_from_the_past() -> None:
    whole = solar_zone()
    assert whole.lately is whole.lately
    place = 26 * 168
    for name in ("lately", "wind_lately"):
        columns, other = getattr(whole, name), getattr(wild_after(whole, NOW), name)
        assert len(columns) == len(whole.intensity) + 1
        assert np.array_equal(columns[: place + 1], other[: place + 1], equal_nan=True)
        assert not np.array_equal(columns, other, equal_nan=True)
    hour, logs = 500, np.log(np.maximum(whole.intensity, 1.0))
    week = np.mean([logs[hour - 3 - 24 * day : hour - 24 * day] for day in range(1, 8)], axis=0)
    assert whole.lately[hour, 0] == pytest.approx((logs[hour - 3 : hour] - week).mean(), abs=1e-5)
    with pytest.raises(KeyError):
        solar_zone(mix=False).wind_lately  # noqa: B018 - it is worked out when it is asked for
