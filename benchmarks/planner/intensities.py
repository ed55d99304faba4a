"""Hourly carbon intensity of real zones: as measured where the shared data is there, else typical days with drawn weather."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np

from batchsched.forecasts.climatology import Climatology
from batchsched.planner.fleet_model import Floats

ZONES = ("DE", "ES", "NL", "PL", "SE", "CISO", "ERCO", "PJM", "NYIS", "ISNE")
FILES = ("ci_carboncast_eu_aus_2020_2021.parquet", "ci_carboncast_us32_2019_2022.parquet")
YEAR = 2021
PERSISTENCE, UNREST = 0.97, 0.05
"""Of the drawn weather: the logarithm of its factor keeps so much of itself from hour to hour, and gains this spread."""


def folder() -> Path | None:
    """The shared data, where it is."""
    found = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    return found if all((found / name).is_file() for name in FILES) else None


def draw(rng: np.random.Generator, zones: int, hours: int) -> tuple[tuple[str, ...], Floats]:
    """So many zones, and [zones, hours] of g/kWh from an hour of the year that is drawn."""
    names = tuple(str(name) for name in rng.permutation(ZONES)[:zones])
    first = int(rng.integers(0, 365 * 24 - hours))
    data = folder()
    if data is not None:
        series = measured(data)
        return names, np.stack([series[name][first : first + hours] for name in names])
    start = datetime(YEAR, 1, 1, tzinfo=UTC) + timedelta(hours=first)
    return names, np.stack([typical(name, start, hours) * weather(rng, hours) for name in names])


def typical(zone: str, start: datetime, hours: int) -> Floats:
    """The built-in climatology."""
    forecast = Climatology().forecast(zone, start, start + timedelta(hours=hours))
    return np.array([slot.mean_g_per_kwh for slot in forecast.slots][:hours])


def weather(rng: np.random.Generator, hours: int) -> Floats:
    """Factors around 1 that wander."""
    steps = rng.normal(0.0, UNREST, hours)
    steps[0] *= 1 / np.sqrt(1 - PERSISTENCE**2)
    log = np.zeros(hours)
    for hour in range(hours):
        log[hour] = PERSISTENCE * log[hour - 1] + steps[hour]
    factors: Floats = np.exp(log)
    return factors


@cache
def measured(data: Path) -> dict[str, Floats]:
    """A year of each zone; hours that are missing are filled in from their neighbours."""
    import pandas as pd

    frame = pd.concat([pd.read_parquet(data / name) for name in FILES])
    index = pd.date_range(f"{YEAR}-01-01", periods=365 * 24, freq="h", tz="UTC")
    found = {}
    for zone in ZONES:
        own = frame[frame["region"] == zone].drop_duplicates("timestamp_utc").set_index("timestamp_utc")["ci_direct"]
        found[zone] = own.where(own > 0).reindex(index).interpolate(limit_direction="both").to_numpy(float)
    return found
