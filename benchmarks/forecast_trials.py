"""The half-years that forecasts are tried on, and the forecasters that need no model. See benchmarks/forecast.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batchsched.forecasts import baselines
from batchsched.forecasts.evaluation import DAY_H, Array, newest

if TYPE_CHECKING:
    import pandas as pd

HOUR = timedelta(hours=1)
LEADS_H = 96
WARM_DAYS = 90
US_HISTORY, EU_HISTORY = "ci_carboncast_us32_2019_2022.parquet", "ci_carboncast_eu_aus_2020_2021.parquet"
US_ISSUES, FIRST_TIER_ISSUES = "fc_carboncast_v3_us28_2022H2.parquet", "fc_carboncast_v21_firsttier_13regions_2021H2.parquet"
FILES = (US_HISTORY, EU_HISTORY, US_ISSUES, FIRST_TIER_ISSUES)
DEFECTIVE = ("PACW", "SPA", "IPCO")
WEATHER_ZONES = ("BPAT", "CISO", "ERCO", "FPL", "ISNE", "NYIS", "PJM")
EUROPEAN_ZONES = ("DE", "ES", "NL", "PL", "SE")


@dataclass(frozen=True)
class Trial:
    """Zones over a half-year, direct intensity in g/kWh, NaN where unknown.

    `values[zone][i]` is the hour labelled `base` + i hours; what an issue may use are labels before it. Issues fall on 00 UTC,
    from `values[zone][first]` on, one a day. `provider[zone]` is CarbonCast as issued, [issues, 96]. Nothing from `first` on may
    train a base model. `folder` holds the raw data, such as generation by source and weather forecasts.
    """

    name: str
    folder: Path
    base: datetime
    first: int
    issues: int
    values: dict[str, Array]
    provider: dict[str, Array]
    weather: bool = False

    @property
    def zones(self) -> tuple[str, ...]:
        """In order of name."""
        return tuple(self.values)

    @property
    def start(self) -> int:
        """The hour of a forecaster's first row: so long before `first` that a calibrator can warm up."""
        return self.first - WARM_DAYS * DAY_H

    @property
    def rows(self) -> int:
        """How many hourly rows a forecaster gives."""
        return (WARM_DAYS + self.issues) * DAY_H

    def instant(self, hour: int) -> datetime:
        """The label of `values[zone][hour]`."""
        return self.base + timedelta(hours=hour)

    def actual(self, zone: str, *, warm: bool = False) -> Array:
        """What came true of each daily issue, [issues, 96]; with `warm` the days before `first` too."""
        days = np.arange(-WARM_DAYS if warm else 0, self.issues) * DAY_H + self.first
        padded = np.concatenate([self.values[zone], np.full(LEADS_H, np.nan)])
        rows: Array = padded[days[:, None] + np.arange(LEADS_H)]
        return rows


# For each zone [trial.rows, 96]: row i is made at hour `trial.start` + i, from labels before that hour, and starts with it. Rows
# before `trial.first` only warm calibrators up and may be NaN.
Forecaster = Callable[[Trial], dict[str, Array]]


def us_2022h2(folder: Path) -> Trial:
    """25 zones of the United States, July to December 2022."""
    import pandas as pd

    issues = _issues(folder / US_ISSUES)
    zones = [zone for zone in sorted(issues["zone"].unique()) if zone not in DEFECTIVE]
    return _trial("us-2022h2", folder, datetime(2022, 7, 1, tzinfo=UTC), zones, pd.read_parquet(folder / US_HISTORY), issues)


def weather_2021h2(folder: Path) -> Trial:
    """Seven zones of the United States with weather forecasts, July to December 2021."""
    import pandas as pd

    issues = _issues(folder / FIRST_TIER_ISSUES)
    history = pd.read_parquet(folder / US_HISTORY)
    return _trial("weather-2021h2", folder, datetime(2021, 7, 1, tzinfo=UTC), WEATHER_ZONES, history, issues, weather=True)


def europe_2021h2(folder: Path) -> Trial:
    """Five European zones with weather forecasts, July to December 2021."""
    import pandas as pd

    issues = _issues(folder / FIRST_TIER_ISSUES)
    history = pd.read_parquet(folder / EU_HISTORY)
    return _trial("europe-2021h2", folder, datetime(2021, 7, 1, tzinfo=UTC), EUROPEAN_ZONES, history, issues, weather=True)


def us_2022h1(folder: Path, zones: Sequence[str]) -> Trial:
    """Zones of the United States, January to June 2022, of which nobody's forecasts were kept; nothing after June is in it."""
    import pandas as pd

    issues = 181 - LEADS_H // DAY_H
    history = pd.read_parquet(folder / US_HISTORY)
    index = pd.date_range(history["timestamp_utc"].min(), pd.Timestamp("2022-06-30 23:00", tz="UTC"), freq="h")
    values = {zone: _hourly(history, zone, index) for zone in zones}
    base: datetime = index[0].to_pydatetime()
    return Trial("us-2022h1", folder, base, (datetime(2022, 1, 1, tzinfo=UTC) - base) // HOUR, issues, values, {})


def naive(trial: Trial) -> dict[str, Array]:
    """The same hour of the last known day."""
    return {zone: baselines.naive(values, trial.start, trial.rows) for zone, values in trial.values.items()}


def climatology(trial: Trial) -> dict[str, Array]:
    """Month by hour over the years before the trial, moved to the level of the last 72 h."""
    import pandas as pd

    length = len(next(iter(trial.values.values()))) + LEADS_H
    labels = pd.date_range(trial.base, periods=length, freq="h")
    found: dict[str, Array] = {}
    for zone, values in trial.values.items():
        typical = baselines.typical_day(values, labels.month.to_numpy(), labels.hour.to_numpy(), trial.start)
        found[zone] = baselines.levelled(values, typical, trial.start, trial.rows)
    return found


def carboncast(trial: Trial) -> dict[str, Array]:
    """CarbonCast as issued once a day."""
    unknown = np.full((WARM_DAYS * DAY_H, LEADS_H), np.nan)
    hours = trial.issues * DAY_H
    return {zone: np.concatenate([unknown, newest(issued, hours)]) for zone, issued in trial.provider.items()}


def need_data(folder: Path) -> None:
    """Leave with a plain word where the data is absent."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        sys.exit(f"There is no data in {folder} ({', '.join(missing)} missing): set BATCHSCHED_DATA to the folder that holds it.")


def _issues(path: Path) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_parquet(path)
    frame = frame[frame["kind"] == "direct"].rename(columns={"region": "zone"})
    frame["zone"] = frame["zone"].astype(str).replace({"NYISO": "NYIS"})
    return frame.sort_values(["zone", "issue_time_utc", "lead_h"])


def _trial(
    name: str,
    folder: Path,
    began: datetime,
    zones: Sequence[str],
    history: pd.DataFrame,
    issues: pd.DataFrame,
    *,
    weather: bool = False,
) -> Trial:
    import pandas as pd

    labels = history["timestamp_utc"]
    until = min(labels.max(), pd.Timestamp(began.year + 1, 1, 3, 23, tz="UTC"))
    index = pd.date_range(labels.min(), until, freq="h")
    values, provider = {}, {}
    for zone in zones:
        values[zone] = _hourly(history, zone, index)
        issued = issues.loc[issues["zone"] == zone, "forecast"].to_numpy(float).reshape(-1, LEADS_H)
        provider[zone] = np.where(issued > 0, issued, np.nan)
    first = index.get_loc(pd.Timestamp(began))
    assert isinstance(first, int)
    base: datetime = index[0].to_pydatetime()
    return Trial(name, folder, base, first, len(next(iter(provider.values()))), values, provider, weather)


def _hourly(history: pd.DataFrame, zone: str, index: pd.DatetimeIndex) -> Array:
    """Direct intensity, NaN where unknown or nothing."""
    rows = history[history["region"] == zone].set_index("timestamp_utc")
    own: Array = rows["ci_direct"].reindex(index).to_numpy(float, copy=True)
    own[~(own > 0)] = np.nan
    return own
