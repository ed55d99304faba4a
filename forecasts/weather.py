"""Weather forecasts from files, and as models see them.

A file is CSV or Parquet: `zone,issued_at,start,published_at,wx_wind,...`, a row for each instant `start` that a run says
something about; `wx_` and any name is a variable, in any unit that stays the same. `issued_at` is the run's nominal time. It
could be had from `published_at` on; where that is not said, six hours later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from batchsched.errors import InvalidConfiguration
from batchsched.forecasts.cells import instant, needed, real
from batchsched.forecasts.tables import Table

if TYPE_CHECKING:
    from batchsched.forecasts.archive.weather import Run
    from batchsched.forecasts.models import Weather

PREFIX = "wx_"
PUBLISHED_AFTER = timedelta(hours=6)
LATEST = timedelta(hours=24)  # a run that came later than this is none
FARTHEST_H = 120
_REQUIRED = ("zone", "issued_at", "start")
_MOST_STEPS = 1000
_HOUR = 3600 * 10**6  # of an archive's instants


class WeatherRun(msgspec.Struct, frozen=True):
    """One run for one zone: `values[variable][n]` is of the instant `start` + n * `step`, None where unknown."""

    zone: str
    issued_at: datetime
    published_at: datetime
    provider: str
    start: datetime
    step: timedelta
    values: Mapping[str, tuple[float | None, ...]]


def is_weather(table: Table) -> bool:
    """Does the file hold weather?"""
    return any(name.startswith(PREFIX) for name in table.header)


def runs_of(path: Path, table: Table, provider: str) -> list[WeatherRun]:
    """All runs of a file. Raises InvalidConfiguration, saying where."""
    variables = [name for name in table.header if name.startswith(PREFIX)]
    allowed = {*_REQUIRED, "published_at", *variables}
    wrong = [name for name in _REQUIRED if name not in table.header] + [name for name in table.header if name not in allowed]
    if wrong or len(set(table.header)) != len(table.header):
        raise InvalidConfiguration(
            f"{table.where}: weather has the columns {', '.join(_REQUIRED)}, published_at, and {PREFIX}NAME for each variable, "
            f"each of them once{f'; look at {wrong[0]!r}' if wrong else ''}."
        )
    rows: dict[tuple[str, datetime, datetime], dict[datetime, list[float | None]]] = {}
    for line, cells in table.rows:
        where = f"{path}, line {line}"
        issued_at, start = (needed(cells, name, where) for name in ("issued_at", "start"))
        published_at = instant(cells.get("published_at"), f"{where}, column 'published_at'") or issued_at + PUBLISHED_AFTER
        if published_at < issued_at:
            raise InvalidConfiguration(f"{where}: a run is published after its time of issue.")
        values = [real(cells[name], f"{where}, column '{name}'") for name in variables]
        rows.setdefault((str(cells["zone"]).strip(), issued_at, published_at), {})[start] = values
    named = [name.removeprefix(PREFIX) for name in variables]
    return [_run(zone, issued_at, at, provider, steps, named, path) for (zone, issued_at, at), steps in rows.items()]


def _run(
    zone: str,
    issued_at: datetime,
    published_at: datetime,
    provider: str,
    steps: Mapping[datetime, list[float | None]],
    names: list[str],
    path: Path,
) -> WeatherRun:
    starts = sorted(steps)
    step = min((after - before for before, after in pairwise(starts)), default=timedelta(hours=1))
    count = (starts[-1] - starts[0]) // step + 1
    if count > _MOST_STEPS or any((at - starts[0]) % step for at in starts):
        raise InvalidConfiguration(f"{path}: the run of {issued_at:%Y-%m-%d %H:%M} UTC for '{zone}' is in no even steps.")
    nothing: list[float | None] = [None] * len(names)
    columns = zip(*(steps.get(starts[0] + n * step, nothing) for n in range(count)), strict=True)
    return WeatherRun(zone, issued_at, published_at, provider, starts[0], step, dict(zip(names, columns, strict=True)))


def as_seen(runs: Iterable[Run], names: Iterable[str] | None = None) -> Weather | None:
    """Runs hour by hour, as models take them: of the provider that has most, or the variables `names`; None where there are none.

    A variable is named by provider and name. All count as published as late as the latest of them. Before them stands one that
    knows nothing, so that there is always a run to look at.
    """
    import numpy as np

    from batchsched.forecasts.models import Weather

    by_name: dict[str, dict[int, Run]] = {}
    for one in runs:  # in order of receipt: a later one of the same time holds
        if one.published_at - one.issued_at <= LATEST / timedelta(microseconds=1):
            by_name.setdefault(f"{one.feed.provider} {one.feed.signal}", {})[one.issued_at // _HOUR] = one
    if names is None:
        most = max((len(found), name.rpartition(" ")[0]) for name, found in by_name.items())[1] if by_name else ""
        names = [name for name in by_name if name.rpartition(" ")[0] == most]
    wanted = {name: by_name.get(name, {}) for name in names}
    if not wanted:
        return None
    hours = [0, *sorted({hour for found in wanted.values() for hour in found})]
    values = {name: np.full((len(hours), FARTHEST_H + 1), np.nan, np.float32) for name in wanted}
    late = 0
    for name, found in wanted.items():
        for row, hour in enumerate(hours):
            if (run := found.get(hour)) is not None:
                late = max(late, math.ceil((run.published_at - run.issued_at) / _HOUR))
                values[name][row] = _hourly(run, hour)
    return Weather(np.array(hours, np.int64), values, late)


def _hourly(run: Run, hour: int) -> Any:
    """From the hour of issue on; between two steps on a straight line, nothing beyond the first and the last."""
    import numpy as np

    values = np.array([np.nan if value is None else value for value in run.values])
    leads = (run.start + np.arange(len(values)) * run.step) / _HOUR - hour
    known = np.isfinite(values)
    if not known.any():
        return np.nan
    return np.interp(np.arange(FARTHEST_H + 1), leads[known], values[known], left=np.nan, right=np.nan)
