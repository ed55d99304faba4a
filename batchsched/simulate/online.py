"""How full an online service keeps its servers, hour by hour: as production services were, or drawn where there is no data.

A load is scaled to a mean share of what a server does; what it leaves of the part that keeps users' promises is room for us.
The week of the start is the first of a trace, those before it are the others, so that what was learnt of a service is not what is
lived; each hour is off by a factor that wanders, so that no week is quite like another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np

from batchsched.profiles.profile import Profile
from batchsched.queue.spare import QUARTER_S, SpareHour, hour_of_week
from batchsched.simulate.grid import Floats
from batchsched.simulate.rooms import STEP_S, Room

SERVEGEN, AZURE = "load_servegen_10min.csv.gz", "load_azure2024_week_10min_digitised.csv.gz"
SERVICES = ("m-small", "m-mid", "m-large", "azure2024_conv", "azure2024_code")
"""Requests to three models in two weeks (ServeGen; their first step counts as Monday 00:00 UTC), and to an assistant and to one
for code in a week (Azure 2024, read off published plots)."""
WEEKS_BEFORE = 2
"""Seen of the servers before the start: what plans have learnt from."""
FULL = 0.9
"""Of what a server does, as much as it does while its users keep what they were promised: our assumption, as the governor leaves
a tenth of the places free."""
STEPS_A_WEEK = int(7 * 86400 / STEP_S)
WANDER, KEEPS = 0.10, 0.97
"""How far an hour lies off the trace, as the standard deviation of a logarithm, and how much of that stays from hour to hour."""
BURSTS = 0.05
"""The same of ten minutes alone."""
_STEPS_AN_HOUR = int(3600 / STEP_S)
_DAY_H, _PEAK_H, _SWING, _WEEKEND = 24, 16, 0.6, 0.75


def loads(folder: Path | None) -> dict[str, list[Floats]]:
    """Whole weeks of load from Monday on, by service, in ten-minute steps, with a mean of 1. Without data one week is made up: a
    day that swings by three fifths, its peak at 16 UTC, weekends a quarter lower."""
    known: dict[str, list[Floats]] = {}
    for name, read in ((SERVEGEN, _servegen), (AZURE, _azure)):
        if folder is not None and (folder / name).is_file():
            known |= read(folder / name)
    return {service: known.get(service, [_typical()]) for service in SERVICES}


def _servegen(path: Path) -> dict[str, list[Floats]]:
    """Services of which whole weeks are known."""
    import pandas as pd

    frame = pd.read_csv(path, usecols=["model", "t_s", "req_per_s"]).sort_values("t_s")
    series = {str(name): rows["req_per_s"].interpolate().to_numpy(float) for name, rows in frame.groupby("model")}
    return {name: _weeks(values) for name, values in series.items() if len(values) >= STEPS_A_WEEK}


def _azure(path: Path) -> dict[str, list[Floats]]:
    """The first week of each, put in order from Monday on."""
    import pandas as pd

    frame = pd.read_csv(path, usecols=["timestamp_utc", "service", "requests_per_min"], parse_dates=["timestamp_utc"])
    found: dict[str, list[Floats]] = {}
    for name, rows in frame.groupby("service"):
        series = rows.set_index("timestamp_utc")["requests_per_min"].resample(f"{int(STEP_S)}s").mean().interpolate()
        values, first = series.to_numpy(float), series.index[0].to_pydatetime()
        if len(values) >= STEPS_A_WEEK:
            since_monday = int(first.weekday() * 86400 + first.hour * 3600 + first.minute * 60) // int(STEP_S)
            found[str(name)] = _weeks(np.roll(values[:STEPS_A_WEEK], since_monday))
    return found


def _weeks(values: Floats) -> list[Floats]:
    whole = len(values) // STEPS_A_WEEK
    weeks = values[: whole * STEPS_A_WEEK].reshape(whole, STEPS_A_WEEK)
    return list(weeks / weeks.mean())


def _typical() -> Floats:
    hours = np.arange(STEPS_A_WEEK) / _STEPS_AN_HOUR
    day = 1 + _SWING * np.cos(2 * np.pi * (hours - _PEAK_H) / _DAY_H)
    week = day * np.where(hours < 5 * _DAY_H, 1.0, _WEEKEND)
    typical: Floats = week / week.mean()
    return typical


def room(weeks: Sequence[Floats], level: float, start: datetime, hours: int, rng: np.random.Generator) -> Room:
    """What a load leaves from the weeks before `start`, a whole hour in UTC, until so many hours after it. `level`: the share of
    a server that the load takes in the mean."""
    before_h = WEEKS_BEFORE * 168
    count = (before_h + hours) * _STEPS_AN_HOUR
    week, place = np.divmod((hour_of_week(start) - before_h) * _STEPS_AN_HOUR + np.arange(count), STEPS_A_WEEK)
    many = len(weeks)
    which = np.where(week >= 0, week % many, many - 1 - (-week - 1) % max(1, many - 1))
    load = level * np.stack(weeks)[which, place] * np.repeat(_wander(before_h + hours, rng), _STEPS_AN_HOUR)
    load = load * rng.lognormal(-(BURSTS**2) / 2, BURSTS, count)
    return Room(-before_h * 3600.0, (1.0 - load / FULL).tolist())


def _wander(hours: int, rng: np.random.Generator) -> Floats:
    """Factors of mean 1, one an hour."""
    news = rng.normal(0.0, WANDER * np.sqrt(1 - KEEPS**2), hours)
    off = np.empty(hours)
    off[0] = rng.normal(0.0, WANDER)
    for n in range(1, hours):
        off[n] = KEEPS * off[n - 1] + news[n]
    factors: Floats = np.exp(off - WANDER**2 / 2)
    return factors


def alone_tokens_per_s(profile: Profile, input_tokens: float, output_tokens: float) -> float:
    """Tokens a second, prompts included, of a server that has no other users, in that mix."""
    return (input_tokens + output_tokens) / profile.seconds(input_tokens, output_tokens)


class Learnt:
    """What was seen of the servers of spare pools, quarter by quarter, and never more than was over by then."""

    def __init__(self, start: datetime, rooms: Mapping[str, Room], alone_tokens_per_s: Mapping[str, float]) -> None:
        self._start, self._rooms, self._alone = start, rooms, alone_tokens_per_s
        self._rows = {name: [SpareHour(name, "", hour, []) for hour in range(168)] for name in rooms}
        self._seen_s = {name: room.first_s for name, room in rooms.items()}

    def until(self, now_s: float) -> list[SpareHour]:
        """All quarters that were over by then. Ask in order of time."""
        for name, known in self._rooms.items():
            while self._seen_s[name] + QUARTER_S <= now_s:
                at_s = self._seen_s[name]
                at = self._start + timedelta(seconds=at_s)
                row = self._rows[name][hour_of_week(at)]
                row.samples.append(known.mean(at_s, at_s + QUARTER_S) * self._alone[name])
                self._rows[name][row.hour_of_week] = msgspec.structs.replace(row, last_at=at)
                self._seen_s[name] = at_s + QUARTER_S
        return [row for rows in self._rows.values() for row in rows]
