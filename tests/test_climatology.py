"""The built-in table against the data it was derived from, and the guess of a machine's zone."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.forecasts.climatology import LICENCE, Climatology
from batchsched.forecasts.zones import ALIASES, WORLD, guess_zone

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DATA = Path(os.environ.get("BATCHSCHED_DATA", Path(__file__).parents[2] / "shared" / "data"))
typical = Climatology()


@pytest.mark.parametrize("zone", [*typical.zones(), *ALIASES])
def test_every_zone_covers_a_year_of_plausible_days(zone: str) -> None:
    forecast = typical.forecast(zone, NOON, NOON + 366 * DAY)
    means = [slot.mean_g_per_kwh for slot in forecast.slots]
    assert len(means) >= 366 * 24
    assert all(mean is not None and 0 < mean < 1000 for mean in means)
    assert forecast.licence


def test_the_sun_shows() -> None:
    """In June California is cleaner at its noon (20 UTC) than at its evening (4 UTC), and Germany at its noon than at night."""
    for zone, noon_hour, night_hour in (("CISO", 18, 4), ("DE", 12, 21)):
        day = {slot.start.hour: slot.mean_g_per_kwh or 0 for slot in typical.forecast(zone, NOON, NOON + DAY).slots}
        assert day[noon_hour] < 0.7 * day[night_hour]


def test_world_is_flat_and_says_that_its_spread_is_unknown() -> None:
    forecast = typical.forecast(WORLD, NOON, NOON + DAY)
    assert {slot.mean_g_per_kwh for slot in forecast.slots} == {481.0}
    assert {slot.quantiles for slot in forecast.slots} == {None}
    assert str(forecast.signal) == "average lifecycle"


def test_nothing_comes_true() -> None:
    assert typical.realised("DE", NOON - DAY, NOON, NOON) == []


def test_source_is_carried() -> None:
    assert typical.forecast("SE", NOON, NOON + DAY).licence == LICENCE


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the measured intensities are absent ({DATA}; set BATCHSCHED_DATA)")
@pytest.mark.parametrize(
    ("file", "start", "zone", "month", "hour"),
    [
        ("ci_carboncast_us32_2019_2022", "interval_start_utc", "CISO", 4, 19),
        ("ci_carboncast_us32_2019_2022", "interval_start_utc", "ERCO", 8, 22),
        ("ci_carboncast_eu_aus_2020_2021", "timestamp_utc", "DE", 12, 17),
    ],
)
def test_table_is_what_the_data_say(file: str, start: str, zone: str, month: int, hour: int) -> None:
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(DATA / f"{file}.parquet", columns=["region", start, "ci_direct"], filters=[("region", "==", zone)])
    begin = frame[start]
    values = frame.loc[(begin.dt.month == month) & (begin.dt.hour == hour) & begin.dt.year.between(2019, 2022), "ci_direct"]
    slot = typical.forecast(
        zone, datetime(2026, month, 1, hour, tzinfo=UTC), datetime(2026, month, 1, hour, 30, tzinfo=UTC)
    ).slots[0]
    assert slot.mean_g_per_kwh == pytest.approx(float(values.mean()), abs=0.51)
    assert slot.quantiles == pytest.approx(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist(), abs=0.51)


class TestGuess:
    @pytest.mark.parametrize(
        ("name", "zone"),
        [
            ("Europe/Berlin", "DE"),
            (":Europe/Madrid", "ES"),
            ("America/New_York", WORLD),
            ("Etc/UTC", WORLD),
            ("America/Los_Angeles", "CISO"),
        ],
    )
    def test_by_tz(self, name: str, zone: str, tmp_path: Path) -> None:
        found, how = guess_zone({"TZ": name}, tmp_path)
        assert found == zone
        assert name.lstrip(":") in how
        assert "TZ" in how

    def test_by_files(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        assert guess_zone({}, tmp_path)[0] == WORLD
        (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Stockholm")
        assert guess_zone({}, tmp_path)[0] == "SE"
        (tmp_path / "etc/timezone").write_text("Europe/Warsaw\n")
        zone, how = guess_zone({}, tmp_path)
        assert zone == "PL"
        assert "/etc/timezone" in how

    def test_every_guess_is_a_zone_that_the_table_knows(self) -> None:
        for name in ("America/Detroit", "Australia/Brisbane", "Europe/Amsterdam"):
            assert guess_zone({"TZ": name})[0] in typical.zones()
