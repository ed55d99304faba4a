"""Our models in the trials of benchmarks/forecast.py: learnt from what lies before a trial, alone and blended with the provider.

The rows before a trial's first issue, which warm the blend and the calibrators up, come from models that end where those rows
begin. See forecasts/models.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
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
OUTCOME = "outcome"

_members: dict[str, dict[str, Rows]] = {}


def alone(trial: Trial, learnt: Learnt | None = None) -> dict[str, Array]:
    """Ours without any provider. `learnt`: how the members come about, and where they are kept."""
    return blended_rows(trial, {zone: Rows(rows.members, rows.outcome) for zone, rows in members(trial, learnt).items()})


def blended(trial: Trial, learnt: Learnt | None = None) -> dict[str, Array]:
    """Ours blended with CarbonCast by what came true of both."""
    issued = carboncast(trial)
    age = (np.arange(trial.rows) % DAY_H / DAY_H).astype(np.float32)
    return blended_rows(
        trial,
        {
            zone: Rows(rows.members, rows.outcome, np.log(np.maximum(issued[zone], LEAST)).astype(np.float32), age)
            for zone, rows in members(trial, learnt).items()
        },
    )


def blended_rows(trial: Trial, rows: dict[str, Rows]) -> dict[str, Array]:
    """Day by day: learn from the day before, then forecast."""
    blend, told = Blend(), Remaining("blended", trial.rows // DAY_H, "days")
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
        told.done()
    return out


def members(trial: Trial, learnt: Learnt | None = None) -> dict[str, Rows]:
    """What our members said at every hour of the trial and of the weeks before it; learnt once a run."""
    if trial.name not in _members:
        _members[trial.name] = (learnt or Learnt()).of(trial)
    return _members[trial.name]


class Learnt:
    """Members of all zones of a trial, learnt zone by zone in so many processes."""

    def __init__(self, jobs: int | None = None, folder: Path | None = None) -> None:
        """`folder`: where they are kept until they are blended, so that a run which was stopped goes on; None: nowhere."""
        self._jobs, self._folder = jobs or os.cpu_count() or 1, folder

    def of(self, trial: Trial) -> dict[str, Rows]:
        """Of every zone."""
        found = {zone: rows for zone in trial.zones if (rows := self._kept(trial, zone)) is not None}
        todo = [zone for zone in trial.zones if zone not in found]
        told = Remaining(f"{trial.name}: learnt", len(todo), "zones")
        for zone, rows in self._learn(trial, todo):
            found[zone] = rows
            self._keep(trial, zone, rows)
            told.done()
        return {zone: found[zone] for zone in trial.zones}

    def forget(self, trial: Trial) -> None:
        """Nothing is kept any more."""
        if self._folder is not None:
            for zone in trial.zones:
                self._path(self._folder, trial, zone).unlink(missing_ok=True)

    def _learn(self, trial: Trial, zones: Sequence[str]) -> Iterator[tuple[str, Rows]]:
        if not zones:
            return
        if self._jobs == 1 or len(zones) == 1:
            pupil = Pupil(trial)
            yield from ((zone, pupil.rows(zone)) for zone in zones)
            return
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the processes to come; this one's are made
        with ProcessPoolExecutor(self._jobs, get_context("spawn"), _begin, (trial,)) as pool:
            yield from zip(zones, pool.map(_rows, zones), strict=True)

    def _kept(self, trial: Trial, zone: str) -> Rows | None:
        if self._folder is None or not (path := self._path(self._folder, trial, zone)).is_file():
            return None
        with np.load(path) as kept:
            arrays = {name: kept[name] for name in kept.files}
        outcome = arrays.pop(OUTCOME)
        return Rows(arrays, outcome)

    def _keep(self, trial: Trial, zone: str, rows: Rows) -> None:
        if self._folder is not None:
            saved(self._path(self._folder, trial, zone), {**rows.members, OUTCOME: rows.outcome})

    @staticmethod
    def _path(folder: Path, trial: Trial, zone: str) -> Path:
        return folder / f"{trial.name}-members-{zone.lower()}.npz"


class Pupil:
    """Learns one zone after another; what all of them look at is worked out once."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._all = trial, histories_of(trial)
        moments = (trial.start, trial.first)
        self._until = {at: {zone: one.until(trial.instant(at)) for zone, one in self._all.items()} for at in moments}

    def rows(self, zone: str) -> Rows:
        """What the members say at every hour; those of the first rows are learnt from what lies before them."""
        trial, history, parts = self._trial, with_others(zone, self._all), []
        for first, last in ((trial.start, trial.first), (trial.first, trial.start + trial.rows)):
            model = Model.fit(with_others(zone, self._until[first]), trial.instant(first))
            parts.append(model.members(history, np.arange(first, last)))
        hours = slice(trial.start, trial.start + trial.rows)
        outcome = np.log(np.maximum(history.intensity[hours], LEAST))
        return Rows({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, outcome)


_pupils: list[Pupil] = []
"""Of this process, where it is one of several."""


def _begin(trial: Trial) -> None:
    _pupils[:] = [Pupil(trial)]


def _rows(zone: str) -> Rows:
    return _pupils[0].rows(zone)


class Remaining:
    """Says on standard error how much of something is done, at every tenth, and how long the rest may take."""

    def __init__(self, done: str, count: int, of: str) -> None:
        self._done, self._count, self._of = done, count, of
        self._number, self._began = 0, time.perf_counter()

    def done(self) -> None:
        """One more."""
        self._number += 1
        if self._number * 10 // self._count > (self._number - 1) * 10 // self._count:
            taken_s = time.perf_counter() - self._began
            left_s = taken_s / self._number * (self._count - self._number)
            said = f"{self._done} {self._number} of {self._count} {self._of} in {taken_s:.0f} s, about {left_s:.0f} s left"
            print(said, file=sys.stderr, flush=True)


def saved(path: Path, arrays: Mapping[str, Array | Floats]) -> None:
    """Write them to an .npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    np.savez(part, allow_pickle=False, **arrays)
    part.replace(path)


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
