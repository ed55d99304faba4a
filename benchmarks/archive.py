"""How large the archive of forecasts grows, and how fast it is read back. The last line is JSON.

`python -m benchmarks.archive [--zones 100] [--days 31]`. A month of hourly forecasts (96 h, five quantiles) and measurements for
each zone goes through the archive as it would in a year's service; the year's size is that month's, times 8760 hours. The values:
CarbonCast's issues of July 2022, corrected each hour by what had come true; where there are more zones than the data has, a zone
serves again, with other noise. Eleven more months lie beside the one that is read, as they would after a year.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batchsched.forecasts import ForecastSlot, IntensityForecast, Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.archive.records import LEVELS

FILE = "fc_carboncast_v3_us28_2022H2.parquet"
HORIZON_H, HOURS_A_YEAR = 96, 8760
START = datetime(2022, 7, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPREAD = np.array([0, -0.25, -0.1, 0, 0.1, 0.25])
LEADS = np.arange(HORIZON_H)


class Zone:
    """A zone as the data has it: CarbonCast's issues by day, and what came true by hour."""

    def __init__(self, name: str, frame: pd.DataFrame, seed: int) -> None:
        self.name = name
        issued: Any = frame.pivot_table(index="issue_time_utc", columns="lead_h", values="forecast").sort_index()
        self._days = {at.to_pydatetime(): row.to_numpy(float) for at, row in issued.iterrows()}
        truth: Any = frame.drop_duplicates("target_time_utc").set_index("target_time_utc")["actual"]
        self.truth = {at.to_pydatetime(): float(value) for at, value in truth.items() if value > 0}
        self._noise = np.random.default_rng(seed)

    def forecast(self, at: datetime) -> IntensityForecast:
        """The day's issue from this hour on, moved by the last error, with a band that widens."""
        midnight = at.replace(hour=0)
        issue = self._days.get(midnight, next(iter(self._days.values())))
        hour = int((at - midnight) / HOUR)
        ahead = np.concatenate([issue[hour:], issue[-24:][:hour]])
        error = np.log(self.truth.get(at - HOUR, ahead[0]) / ahead[0]) + self._noise.normal(0, 0.01)
        mean = ahead * np.exp(error * np.exp(-LEADS / 12))
        width = (0.4 + 0.6 * (1 - np.exp(-LEADS / 24))) * (1 + self._noise.normal(0, 0.02))
        values = mean * np.exp(SPREAD[:, None] * width)
        slots = tuple(
            ForecastSlot(at + n * HOUR, at + (n + 1) * HOUR, column[0], tuple(column[1:]))
            for n, column in enumerate(values.T.tolist())
        )
        return IntensityForecast(self.name, at, "carboncast", Signal(), slots, "Apache-2.0 (CarbonCast)")


def zones(count: int) -> Iterator[Zone]:
    """So many zones; where the data has fewer, each serves again under another name."""
    frame = pd.read_parquet(Path(os.environ.get("BATCHSCHED_DATA", "../shared/data")) / FILE)
    frame = frame[frame.kind == "direct"]
    names = [name for name in sorted(frame.region.unique()) if name not in {"PACW", "SPA", "IPCO"}]
    for n in range(count):
        name = names[n % len(names)]
        yield Zone(f"{name}-{n}", frame[frame.region == name], n)


def fill(archive: Archive, known: list[Zone], days: int) -> list[float]:
    """Every hour: a forecast of each zone and its last hour. The seconds that each forecast took to be safe."""
    spent: list[float] = []
    for hour in range(24 * days):
        at = START + hour * HOUR
        forecasts = [zone.forecast(at) for zone in known]
        began = time.perf_counter()
        archive.add_forecasts(forecasts, at + timedelta(minutes=5))
        spent.append((time.perf_counter() - began) / len(known))
        values = [
            Realised(zone.name, at - HOUR, at, zone.truth[at - HOUR], "carboncast", Signal())
            for zone in known
            if at - HOUR in zone.truth
        ]
        archive.add_realised(values, at + timedelta(minutes=10))
    return spent


def replay(folder: Path, zone: str, day: datetime) -> float:
    """Seconds to read, in a process that knows nothing yet, what a day's 24 hourly decisions about a zone knew."""
    archive = Archive(folder)
    began = time.perf_counter()
    for hour in range(24):
        as_of = day + hour * HOUR + timedelta(minutes=15)
        assert archive.newest(zone, as_of=as_of)
        assert archive.realised(zone, as_of - timedelta(days=7), as_of, as_of=as_of)
    return time.perf_counter() - began


def as_float32(month: Path, target: Path) -> int:
    """Bytes of the same rows with float32 in place of hundredths, zstd, everything else as Parquet does it by itself."""
    table = pq.read_table(month)
    for name in LEVELS:
        lists: Any = table[name].combine_chunks()
        values = lists.values.to_numpy().astype(np.float32) / np.float32(100)
        floats = pa.ListArray.from_arrays(lists.offsets, pa.array(values))
        table = table.set_column(table.schema.get_field_index(name), name, floats)
    pq.write_table(table, target, compression="zstd")
    return target.stat().st_size


def main() -> None:
    """Fill, fold, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zones", type=int, default=100)
    parser.add_argument("--days", type=int, default=31)
    asked = parser.parse_args()
    try:
        known = list(zones(asked.zones))
    except FileNotFoundError as problem:
        sys.exit(f"This benchmark needs the shared data: {problem}. Name its folder in BATCHSCHED_DATA.")
    print(f"{platform.machine()}, {os.cpu_count()} cores; {asked.zones} zones, {asked.days} days of hourly issues", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "archive"
        archive = Archive(folder)
        spent = fill(archive, known, asked.days)
        began = time.perf_counter()
        archive.fold()
        fold_s = time.perf_counter() - began
        (month,) = (folder / "forecasts").glob("*.parquet")
        issues, size = asked.zones * asked.days * 24, month.stat().st_size
        realised = sum(path.stat().st_size for path in (folder / "realised").glob("*.parquet"))
        float32 = as_float32(month, Path(temporary) / "float32.parquet")
        for n in range(11):
            os.link(month, month.with_name(f"2021-{n + 1:02}.parquet"))
        day = START + timedelta(days=asked.days - 2)
        reads = sorted(replay(folder, zone.name, day) for zone in known[:25])
    scale = HOURS_A_YEAR / 24 / asked.days * 100 / asked.zones
    figures = {
        "bytes_per_forecast": round(size / issues),
        "year_100_zones_mb": round(size * scale / 1e6),
        "year_100_zones_realised_mb": round(realised * scale / 1e6, 1),
        "of_float32": round(size / float32, 2),
        "append_ms": round(statistics.median(spent) * 1e3, 2),
        "fold_s": round(fold_s, 2),
        "replay_day_s": round(statistics.median(reads), 3),
        "replay_day_s_max": round(reads[-1], 3),
    }
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
