"""Our models in the trials of benchmarks/forecast.py: learnt from what lies before a trial, alone and blended with the provider.

The rows before a trial's first issue, which warm the blend and the calibrators up, come from models that end where those rows
begin. See forecasts/models.
"""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path

import numpy as np

from batchsched.forecasts.evaluation import DAY_H, Array
from batchsched.forecasts.models import Blend, History, Model, Rows, Weather
from batchsched.forecasts.models.blend import BACK_H
from batchsched.forecasts.models.history import Floats
from batchsched.forecasts.models.model import HORIZON_H
from benchmarks.forecast_trials import Trial, carboncast

MIX, WEATHER = "genmix_carboncast_us32_2019_2022.parquet", "wx_gfs_forecast_13regions_2019_2021.parquet"
EASTERN = -5
UTC_OFFSET_H = dict.fromkeys(("CISO", "LDWP", "TIDC", "BPAT", "NEVP"), -8)
UTC_OFFSET_H |= dict.fromkeys(("AZPS", "SRP", "PACE", "PSCO", "WACM", "NWMT"), -7)
UTC_OFFSET_H |= dict.fromkeys(("ERCO", "MISO", "SWPP", "AECI", "SOCO", "TVA"), -6)
UTC_OFFSET_H |= dict.fromkeys(("DE", "ES", "NL", "PL", "SE"), 1)
LEAST = 1.0  # g/kWh: logarithms below it say nothing

_members: dict[str, dict[str, Rows]] = {}


def alone(trial: Trial) -> dict[str, Array]:
    """Ours without any provider."""
    return blended_rows(trial, {zone: Rows(rows.members, rows.outcome) for zone, rows in members(trial).items()})


def blended(trial: Trial) -> dict[str, Array]:
    """Ours blended with CarbonCast by what came true of both."""
    issued = carboncast(trial)
    age = (np.arange(trial.rows) % DAY_H / DAY_H).astype(np.float32)
    return blended_rows(
        trial,
        {
            zone: Rows(rows.members, rows.outcome, np.log(np.maximum(issued[zone], LEAST)).astype(np.float32), age)
            for zone, rows in members(trial).items()
        },
    )


def blended_rows(trial: Trial, rows: dict[str, Rows]) -> dict[str, Array]:
    """Day by day: learn from the day before, then forecast."""
    blend = Blend()
    out: dict[str, Array] = {zone: np.full((trial.rows, HORIZON_H), np.nan) for zone in rows}
    for begin in range(0, trial.rows, DAY_H):
        for zone, own in rows.items():
            if begin:
                since = max(begin - DAY_H - HORIZON_H - BACK_H, 0)
                blend.learn(zone, own.cut(since, begin), begin - DAY_H - since, begin - since)
        blend.weigh()
        for zone, own in rows.items():
            since, end = max(begin - BACK_H, 0), begin + DAY_H
            out[zone][begin:end] = np.exp(blend.logs(zone, own.cut(since, end), begin - since, end - since))
    return out


def members(trial: Trial) -> dict[str, Rows]:
    """What our members said at every hour of the trial and of the weeks before it; learnt once a run."""
    if trial.name not in _members:
        histories = histories_of(trial)
        _members[trial.name] = {zone: _member_rows(trial, with_others(zone, histories)) for zone in trial.zones}
    return _members[trial.name]


def _member_rows(trial: Trial, history: History) -> Rows:
    began = time.perf_counter()
    parts = []
    for first, last in ((trial.start, trial.first), (trial.first, trial.start + trial.rows)):
        model = Model.fit(history, trial.instant(first))
        parts.append(model.members(history, np.arange(first, last)))
    print(f"{history.zone}: learnt twice and forecast in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    hours = slice(trial.start, trial.start + trial.rows)
    outcome = np.log(np.maximum(history.intensity[hours], LEAST))
    return Rows({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, outcome)


def with_others(zone: str, histories: dict[str, History]) -> History:
    """A zone's history with those of all the others beside it."""
    own = histories[zone]
    others = {name: other for name, other in histories.items() if name != zone}
    return History(zone, own.begins_at, own.intensity, own.mix, own.weather, own.utc_offset_h, others)


def histories_of(trial: Trial) -> dict[str, History]:
    """Everything that the data says of a trial's zones."""
    return {
        zone: History(
            zone,
            trial.base,
            values.astype(np.float32),
            mix_of(trial, zone),
            weather_of(trial.folder, zone) if trial.weather else None,
            UTC_OFFSET_H.get(zone, EASTERN),
        )
        for zone, values in trial.values.items()
    }


def mix_of(trial: Trial, zone: str) -> dict[str, Floats]:
    """MW by source, over the hours of the trial's values."""
    import pandas as pd

    path = trial.folder / MIX
    frame = pd.read_parquet(path, filters=[("region", "==", zone)]) if path.is_file() else pd.DataFrame()
    if frame.empty:
        return {}
    index = pd.date_range(trial.base, periods=len(trial.values[zone]), freq="h")
    frame = frame.set_index("timestamp_utc").reindex(index)
    sources = [name for name in frame.columns if name.startswith("mw_") and frame[name].notna().any()]
    return {name.removeprefix("mw_"): frame[name].to_numpy(np.float32) for name in sources}


@cache
def weather_of(folder: Path, zone: str) -> Weather | None:
    """The runs of a zone, from steps of three hours to every hour."""
    import pandas as pd

    path = folder / WEATHER
    if not path.is_file():
        return None
    frame = pd.read_parquet(path, filters=[("region", "==", {"NYIS": "NYISO"}.get(zone, zone))])
    runs = pd.DatetimeIndex(frame["issue_time_utc"].unique()).sort_values()
    values = {}
    for name, part in frame.groupby("variable", observed=True):
        table = part.pivot_table(index="issue_time_utc", columns="lead_h", values="value").reindex(index=runs, columns=range(97))
        values[str(name)] = table.interpolate(axis=1, limit_area="inside").to_numpy(np.float32)
    return Weather(runs.as_unit("s").asi8 // 3600, values)
