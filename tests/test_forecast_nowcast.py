"""A source's forecast is moved by what has come true since, and its spread is what its own past errors give."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from batchsched.forecasts import ForecastSlot, IntensityForecast, Realised, Signal, open_provider
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.nowcast import Nowcast
from batchsched.forecasts.port import describe
from batchsched.settings import Forecast

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIRST_TIER = "fc_carboncast_v21_firsttier_13regions_2021H2.parquet"


def daily(issued: Array) -> Callable[[datetime], IntensityForecast | None]:
    """One issue a day at midnight, [days, leads]."""
    made = [forecast(START + n * DAY, row) for n, row in enumerate(issued)]

    def newest(at: datetime) -> IntensityForecast | None:
        day = (at - START) // DAY
        return made[min(day, len(made) - 1)] if day >= 0 else None

    return newest


def forecast(issued_at: datetime, values: Array, spread: float | None = None) -> IntensityForecast:
    def slot(n: int, value: float) -> ForecastSlot:
        band = (0.8, 0.9, 1.0, 1.1, 1.2)
        quantiles = tuple(value * (1 + spread * (level - 1)) for level in band) if spread is not None else None
        return ForecastSlot(issued_at + n * HOUR, issued_at + (n + 1) * HOUR, value, quantiles)

    slots = tuple(slot(n, value) for n, value in enumerate(values.tolist()))
    return IntensityForecast("DE", issued_at, "grid", Signal(), slots)


def came(values: Array) -> Callable[[datetime, datetime, datetime], list[Realised]]:
    """Hours from START on, each known when it is over."""

    def known(start: datetime, end: datetime, now: datetime) -> list[Realised]:
        first, last = max((start - START) // HOUR, 0), min((min(end, now) - START) // HOUR, len(values))
        hours = [(START + n * HOUR, value) for n, value in enumerate(values[: max(last, 0)].tolist()) if n >= first]
        return [Realised("DE", at, at + HOUR, value, "meter", Signal()) for at, value in hours]

    return known


def autoregressive(seed: int, days: int, size: float = 0.04) -> tuple[Array, Array]:
    """A grid whose departures from its typical day last for hours, and daily forecasts that know only the typical day."""
    random = np.random.default_rng(seed)
    hours = np.arange((days + 4) * 24)
    typical = 300 + 60 * np.sin(hours / 24 * 2 * np.pi)
    level, log = 0.0, np.zeros(len(hours))
    for n in range(len(hours)):
        level = 0.95 * level + random.normal(0, size)
        log[n] = level
    issued = np.stack([typical[day * 24 : day * 24 + 96] * np.exp(random.normal(0, 0.01, 96)) for day in range(days)])
    return typical * np.exp(log), issued


class TestCorrection:
    values = np.full(240, 240.0)
    flat = np.full((10, 96), 200.0)

    def test_what_came_true_moves_the_next_hours_most(self) -> None:
        """All was 20 % above: the next hours are moved most of the way, later ones less, and it says so."""
        now = START + 5 * DAY + 6.5 * HOUR
        moved = Nowcast(daily(self.flat), came(self.values)).of(forecast(START + 5 * DAY, self.flat[0], spread=1.0), now)
        next_hour = moved.slots[6].mean_g_per_kwh
        later = moved.slots[80].mean_g_per_kwh
        assert next_hour is not None
        assert later is not None
        assert 230 < next_hour < 241
        assert 200 < later < next_hour
        assert moved.slots[5].mean_g_per_kwh == 200  # what lies behind is as it was said
        assert moved.slots[6].quantiles == pytest.approx([level * next_hour for level in (0.8, 0.9, 1.0, 1.1, 1.2)])
        assert moved.note.startswith("corrected by what has come true since (+1")
        assert moved.note in describe(moved)

    @pytest.mark.parametrize("known", [0, 120])
    def test_where_nothing_has_come_true_since_it_stays(self, known: int) -> None:
        issue = forecast(START + 5 * DAY, self.flat[0])
        nowcast = Nowcast(daily(self.flat), came(self.values[:known]))
        assert nowcast.of(issue, START + 5 * DAY + 6 * HOUR) == issue

    def test_who_errs_without_memory_is_hardly_moved(self) -> None:
        """Errors that say nothing about the next ones: after three months the zone's own record counts more than others'."""
        random = np.random.default_rng(5)
        values = 200 * np.exp(random.normal(0, 0.2, 100 * 24))
        now = START + 95 * DAY + 6 * HOUR
        values[95 * 24 : 95 * 24 + 6] = 260
        issue = forecast(START + 95 * DAY, self.flat[0])

        def first(nowcast: Nowcast) -> float:
            return nowcast.of(issue, now).slots[6].mean_g_per_kwh or 0.0

        fresh = first(Nowcast(_only(issue), came(values)))
        wise = first(Nowcast(daily(np.repeat(self.flat, 10, axis=0)), came(values)))
        assert fresh > 230
        assert abs(wise / 200 - 1) < 0.4 * (fresh / 200 - 1)

    def test_a_gram_or_none_at_all_breaks_nothing(self) -> None:
        values = np.where(np.arange(240) % 3 == 0, 0.0, 5000.0)
        issue = forecast(START + 5 * DAY, np.where(np.arange(96) % 2 == 0, 0.0, 1.0))
        moved = Nowcast(daily(self.flat), came(values)).of(issue, START + 5 * DAY + 7 * HOUR)
        means = [slot.mean_g_per_kwh or 0.0 for slot in moved.slots]
        assert all(math.isfinite(mean) and 0 <= mean <= 2.1 for mean in means)


def _only(issue: IntensityForecast) -> Callable[[datetime], IntensityForecast | None]:
    return lambda at: issue if at >= issue.issued_at else None


class TestSpread:
    def test_before_ten_outcomes_it_is_not_known(self) -> None:
        values, issued = autoregressive(1, 12)
        nowcast = Nowcast(daily(issued), came(values))
        assert all(slot.quantiles is None for slot in nowcast.of(forecast(START + 8 * DAY, issued[8]), START + 8 * DAY).slots)
        later = nowcast.of(forecast(START + 11 * DAY, issued[11]), START + 11 * DAY)
        assert later.slots[0].quantiles is not None
        assert later.slots[60].quantiles is None

    @pytest.mark.slow
    def test_nine_in_ten_lie_within_it(self) -> None:
        within = [_coverage(*autoregressive(seed, 150), range(60, 146, 5)) for seed in (1, 2)]
        assert 0.86 <= np.mean(within) <= 0.94

    @pytest.mark.slow
    @pytest.mark.parametrize(("zone", "least", "most"), [("SE", 0.83, 0.96), ("CISO", 0.83, 0.96)])
    def test_of_a_real_feed_too(self, zone: str, least: float, most: float) -> None:
        """CarbonCast gives no quantiles; served, nine in ten of what came true lie within those that it then has."""
        path = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data")) / FIRST_TIER
        if not path.is_file():
            pytest.skip(f"{path} is not there (BATCHSCHED_DATA)")
        import pandas as pd

        frame = pd.read_parquet(path)
        frame = frame[(frame["region"] == zone) & (frame["kind"] == "direct")].sort_values(["issue_time_utc", "lead_h"])
        issued = frame["forecast"].to_numpy(float).reshape(-1, 96)
        actual = frame["actual"].to_numpy(float).reshape(-1, 96)
        values = np.concatenate([actual[:, :24].ravel(), actual[-1, 24:]])
        assert least <= _coverage(values, issued, range(60, len(issued) - 4, 8)) <= most

    def test_one_that_is_not_quite_trusted_gets_a_wider_one(self) -> None:
        values, issued = autoregressive(1, 30)
        now = START + 29 * DAY + 3 * HOUR
        issue = forecast(START + 29 * DAY, issued[29])
        nowcast = Nowcast(daily(issued), came(values))
        plain, wider = (nowcast.of(issue, now, wider=by).slots[10].quantiles for by in (1.0, 1.5))
        assert plain is not None
        assert wider is not None
        assert wider[2] == plain[2]
        assert wider[4] - wider[2] == pytest.approx(1.5 * (plain[4] - plain[2]))


def _coverage(values: Array, issued: Array, days: range) -> float:
    """Of the four days ahead, at an hour of each of these days that wanders."""
    nowcast = Nowcast(daily(issued), came(values))
    inside: list[bool] = []
    for day in days:
        now = START + day * DAY + (day * 7 % 24) * HOUR
        for slot in nowcast.of(forecast(START + day * DAY, issued[day]), now).slots:
            place = (slot.start - START) // HOUR
            if slot.start >= now and place < len(values):
                assert slot.quantiles is not None
                inside.append(slot.quantiles[0] <= values[place] <= slot.quantiles[-1])
    return float(np.mean(inside))


class TestServed:
    def test_the_chain_serves_it_and_any_instant_again(self, tmp_path: Path) -> None:
        values, issued = autoregressive(3, 30)
        archive = Archive(tmp_path)
        links = {"DE": Links(("grid",), Signal())}
        running = Chain(archive, links, Climatology())
        said: dict[datetime, IntensityForecast] = {}
        for day, row in enumerate(issued[:24]):
            at = START + day * DAY
            archive.add_forecast(forecast(at, row), at)
            archive.add_realised(came(values[: (day + 1) * 24])(at, at + DAY / 2, at + DAY), at + DAY / 2)
            if day > 20:
                said |= {now: running.forecast("DE", now, now + DAY) for now in (at + DAY / 2, at + 15 * HOUR)}
            archive.add_realised(came(values)(at + DAY / 2, at + DAY, at + DAY), at + DAY)
        assert all(one.note and one.slots[0].quantiles for one in said.values())
        archive.add_realised([Realised("DE", at, at + HOUR, 900.0, "meter", Signal()) for at in said], START + 25 * DAY)
        anew = Chain(Archive(tmp_path), links, Climatology())
        for now, before in said.items():
            assert anew.forecast("DE", now, now + DAY) == before
            assert anew.choose("DE", now, now + DAY).forecast.note == ""

    def test_our_own_is_left_alone(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(IntensityForecast("DE", START, "own", Signal(), forecast(START, 200.0 + np.arange(96)).slots), START)
        now = START + 5 * HOUR
        archive.add_realised(came(np.full(240, 240.0))(START, now, now), now)
        served = Chain(archive, {"DE": Links(("own",), Signal())}, Climatology()).forecast("DE", now, now + DAY)
        assert (served.provider, served.note, served.slots[0].mean_g_per_kwh) == ("own", "", 205.0)

    def test_a_file_is_corrected_by_its_own_measurements(self, tmp_path: Path) -> None:
        path = tmp_path / "grid.csv"
        with path.open("w", newline="") as handle:
            rows = csv.writer(handle)
            rows.writerow(["zone", "start", "end", "issued_at", "mean", "realised"])
            for n in range(48):
                at = START + n * HOUR
                rows.writerow(["DE", at.isoformat(), (at + HOUR).isoformat(), START.isoformat(), 200, 240 if n < 6 else ""])
        provider = open_provider(Forecast(source="file", path=str(path)), tmp_path)
        now = START + 6.5 * HOUR
        found = provider.forecast("DE", now, now + DAY)
        assert 230 < (found.slots[0].mean_g_per_kwh or 0) < 241
        assert "corrected" in found.note
        assert provider.forecast("DE", START + HOUR / 2, now).mean_over(START + 3 * HOUR, now) == 200
