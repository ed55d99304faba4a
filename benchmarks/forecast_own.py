"""What the server's own models gain from what lies beside a zone. The last line is JSON.

`python -m benchmarks.forecast_own [--zones CISO ERCO ...] [--issues 40]`. The hours of US zones go into an archive
as a server would have them, known from their end on. The source `own` learns each zone before July 2022 and then forecasts, every
few days until December, once from an archive that has all zones and their generation, and once from one that has the zone's
intensities alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
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
from benchmarks.forecast_ours import MIX
from benchmarks.forecast_trials import DEFECTIVE, US_HISTORY

FIRST, LAST = datetime(2022, 7, 1, tzinfo=UTC), datetime(2022, 12, 27, tzinfo=UTC)
BEGINS = datetime(2019, 7, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAYS = (("alone", False, False), ("generation", False, True), ("other zones", True, False), ("both", True, True))
LEFT_OUT = (*DEFECTIVE, "WALC")


def filled(folder: Path, history: pd.DataFrame, zones: list[str], *, generation: bool) -> Archive:
    """An archive of these zones."""
    archive = Archive(folder)
    for zone in zones:
        rows = history[history["region"] == zone]
        starts = pd.DatetimeIndex(rows["interval_start_utc"]).to_pydatetime()
        values = zip(starts, rows["ci_direct"].tolist(), strict=True)
        archive.add_realised((Realised(zone, at, at + HOUR, value, "EIA-930", Signal()) for at, value in values), BEGINS)
        if generation:
            columns = {fuel: rows[name].tolist() for name, fuel in CARBONCAST_POWER.items() if name in rows}
            mixes = ({fuel: mw[n] for fuel, mw in columns.items() if mw[n] == mw[n]} for n in range(len(rows)))
            slots = zip(starts, mixes, strict=True)
            archive.add_generation((Generation(zone, at, at + HOUR, "EIA-930", mix) for at, mix in slots), BEGINS)
    archive.fold()
    return archive


def errors(archive: Archive, zone: str, truth: dict[datetime, float], issues: list[datetime]) -> tuple[Array, float, float]:
    """[issues, days]: mean error over the mean of what came true; seconds to learn, and to forecast."""
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
    data = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    if not (data / US_HISTORY).is_file():
        sys.exit(f"This benchmark needs the shared data ({data / US_HISTORY} is absent). Name its folder in BATCHSCHED_DATA.")
    history = pd.read_parquet(data / US_HISTORY).astype({"region": str})
    history = history.merge(pd.read_parquet(data / MIX).astype({"region": str}), on=["region", "timestamp_utc"], how="left")
    history = history[(history["interval_start_utc"] >= BEGINS) & ~history["region"].isin(LEFT_OUT)]
    step = (LAST - FIRST) / asked.issues
    issues = [(FIRST + n * step).replace(minute=20, second=0, microsecond=0) for n in range(asked.issues)]
    own.LEARNT_ANEW = timedelta(days=366)  # one model for the whole half-year
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        everybody = sorted(history["region"].unique())

        def archive_for(zone: str, beside: bool, generation: bool) -> Archive:
            place = Path(folder) / f"{'all' if beside else zone}-{generation}"
            return (
                Archive(place)
                if place.exists()
                else filled(place, history, everybody if beside else [zone], generation=generation)
            )

        for zone in asked.zones:
            rows = history[history["region"] == zone]
            truth = dict(zip(pd.DatetimeIndex(rows["interval_start_utc"]).to_pydatetime(), rows["ci_direct"], strict=True))
            for name, beside, generation in WAYS:
                found, learn_s, issue_s = errors(archive_for(zone, beside, generation), zone, truth, issues)
                shown = (100 * np.nanmean(found, axis=0)).round(2).tolist()
                print(f"{zone:5} {name:18} days 1-4: {shown} %; learnt in {learn_s:.0f} s, an issue {issue_s:.2f} s", flush=True)
                result.setdefault(name, []).append(shown)
    print(json.dumps({name: np.mean(found, axis=0).round(2).tolist() for name, found in result.items()}))


if __name__ == "__main__":
    main()
