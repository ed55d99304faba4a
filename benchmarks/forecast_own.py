"""What the server's own models gain from what lies beside a zone's intensities. The last line is JSON.

`python -m benchmarks.forecast_own [--zones CISO ERCO ...] [--issues 40]`. The hours of US zones go into archives as a server
would have them, known from their end on, and weather runs, known six hours after their issue. The source `own` learns each zone
before July 2021 and then forecasts, every few days until December, from archives that hold more and more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from batchsched.clock import ManualClock
from batchsched.forecasts import Realised, Signal, own
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.layouts import CARBONCAST_POWER
from batchsched.forecasts.port import Generation
from batchsched.forecasts.weather import PUBLISHED_AFTER, WeatherRun
from benchmarks.forecast_ours import MIX, WEATHER
from benchmarks.forecast_trials import DEFECTIVE, US_HISTORY

BEGINS = datetime(2019, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(2021, 7, 1, tzinfo=UTC), datetime(2021, 12, 27, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEP_H = 3
LEFT_OUT = (*DEFECTIVE, "WALC", "SC")
WAYS = {
    "intensity": (False, False, False),
    "generation": (True, False, False),
    "generation, zones": (True, True, False),
    "generation, weather": (True, False, True),
    "all three": (True, True, True),
}


class Data:
    """The shared data of these years."""

    def __init__(self, folder: Path) -> None:
        history = pd.read_parquet(folder / US_HISTORY).astype({"region": str})
        mix = pd.read_parquet(folder / MIX).astype({"region": str})
        history = history.merge(mix, on=["region", "timestamp_utc"], how="left")
        inside = (history["interval_start_utc"] >= BEGINS) & (history["interval_start_utc"] < LAST + 5 * 24 * HOUR)
        self.zones = {str(zone): rows for zone, rows in history[inside].groupby("region") if zone not in LEFT_OUT}
        self.weather = pd.read_parquet(folder / WEATHER).astype({"region": str, "variable": str})

    def filled(self, folder: Path, zones: list[str], *, generation: bool, weather: bool) -> Archive:
        """An archive of these zones."""
        archive = Archive(folder)
        for zone in zones:
            rows = self.zones[zone]
            starts = pd.DatetimeIndex(rows["interval_start_utc"]).to_pydatetime()
            values = zip(starts, rows["ci_direct"].tolist(), strict=True)
            archive.add_realised((Realised(zone, at, at + HOUR, value, "EIA-930", Signal()) for at, value in values), BEGINS)
            if generation:
                columns = {fuel: rows[name].tolist() for name, fuel in CARBONCAST_POWER.items() if name in rows}
                mixes = ({fuel: mw[n] for fuel, mw in columns.items() if mw[n] == mw[n]} for n in range(len(rows)))
                slots = zip(starts, mixes, strict=True)
                archive.add_generation((Generation(zone, at, at + HOUR, "EIA-930", mix) for at, mix in slots), BEGINS)
            if weather:
                archive.add_weather(self._runs(zone), BEGINS)
        archive.fold()
        return archive

    def _runs(self, zone: str) -> Iterator[WeatherRun]:
        rows = self.weather[self.weather["region"] == zone]
        table = rows.pivot_table(index="issue_time_utc", columns=["variable", "lead_h"], values="value")
        leads = range(0, 97, STEP_H)
        names: list[str] = sorted(rows["variable"].unique())
        for issued, row in table.iterrows():
            at = pd.Timestamp(str(issued)).to_pydatetime()
            values = {
                name: tuple(
                    None if np.isnan(value) else float(value) for value in (row.get((name, lead), np.nan) for lead in leads)
                )
                for name in names
            }
            yield WeatherRun(zone, at, at + PUBLISHED_AFTER, "GFS", at, STEP_H * HOUR, values)


def errors(archive: Archive, zone: str, truth: dict[datetime, float], issues: list[datetime]) -> tuple[Array, float, float]:
    """[issues, days]: mean error as a share of what came true; seconds to learn, and to forecast."""
    source = own.Own(archive, {zone: Signal()}, archive.folder / "models", ManualClock(FIRST))
    began = time.perf_counter()
    source.train(zone, FIRST)
    found, learnt_at = [], time.perf_counter()
    for at in issues:
        made = source.fetch_forecast(zone, at)
        means = np.array([slot.mean_g_per_kwh for slot in made.slots], float)
        true = np.array([truth.get(slot.start, np.nan) for slot in made.slots])
        found.append(np.nanmean((np.abs(means - true) / true).reshape(4, 24), axis=1))
    return np.array(found), learnt_at - began, (time.perf_counter() - learnt_at) / len(issues)


def main() -> None:
    """Fill, learn, forecast, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zones", nargs="+", default=["CISO", "ERCO", "ISNE", "PJM"])
    parser.add_argument("--issues", type=int, default=40)
    asked = parser.parse_args()
    folder = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    if not (folder / US_HISTORY).is_file():
        sys.exit(f"This benchmark needs the shared data ({folder / US_HISTORY} is absent). Name its folder in BATCHSCHED_DATA.")
    data = Data(folder)
    own.LEARNT_ANEW = timedelta(days=366)  # one model for the whole half-year
    step = (LAST - FIRST) / asked.issues
    issues = [(FIRST + n * step).replace(minute=20, second=0, microsecond=0) for n in range(asked.issues)]
    result: dict[str, list[Any]] = {}
    for name, (generation, beside, weather) in WAYS.items():
        with tempfile.TemporaryDirectory() as place:
            groups = [list(data.zones)] if beside else [[zone] for zone in asked.zones]
            for group in groups:
                archive = data.filled(Path(place) / group[0], group, generation=generation, weather=weather)
                for zone in asked.zones if beside else group:
                    rows = data.zones[zone]
                    truth = dict(
                        zip(pd.DatetimeIndex(rows["interval_start_utc"]).to_pydatetime(), rows["ci_direct"], strict=True)
                    )
                    found, learn_s, issue_s = errors(archive, zone, truth, issues)
                    shown = (100 * np.nanmean(found, axis=0)).round(2).tolist()
                    print(
                        f"{zone:5} {name:20} days 1-4: {shown} %; learnt in {learn_s:.0f} s, {issue_s:.2f} s an issue", flush=True
                    )
                    result.setdefault(name, []).append(shown)
    print(json.dumps({name: np.mean(found, axis=0).round(2).tolist() for name, found in result.items()}))


if __name__ == "__main__":
    main()
