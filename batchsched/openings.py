"""When pools are open, and with how many of their replicas: the one place that puts windows together with what operators decided.

A pool without windows is always open. One with windows is open while any of them is: by its cron line, less what was skipped,
with what it was extended by, not while it is paused, and not while the forecast is above what the window allows. Where several
are open at once the largest share holds. What operators decided on the pool as a whole (queue/overrides.py) comes on top.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec
from sqlalchemy import Connection

from batchsched.errors import InvalidConfiguration
from batchsched.fleet import Fleet, PoolWindow, windows_by_key
from batchsched.forecasts import IntensityForecast
from batchsched.planner import Slot, open_share
from batchsched.queue import windows
from batchsched.queue.overrides import Overrides
from batchsched.queue.windows import Decided
from batchsched.settings import Settings
from batchsched.windows import check, joined, openings

Stretch = tuple[datetime, datetime]
_HOUR = timedelta(hours=1)
JUDGED_H = 24
"""Hours of the forecast that a percentile is of."""


class Standing(msgspec.Struct, frozen=True):
    """A window, and what operators decided on it."""

    name: str
    window: PoolWindow
    decided: Decided = Decided()
    configured: bool = False
    """The configuration declares it."""

    def openings(self, start: datetime, end: datetime, shut: Iterable[Stretch] = ()) -> list[Stretch]:
        """When it is open, in order and apart: what touches [start, end], which may go on beyond. `shut`: not then."""
        by_cron = openings(self.window, start, end, self.decided.skipped)
        further = [span for span in self.decided.extended if span[0] <= end and span[1] > start]
        found = outside(joined([*by_cron, *further]) if further else by_cron, [*shut, *self.pause])
        return [span for span in found if span[1] > start and span[0] <= end]

    @property
    def pause(self) -> list[Stretch]:
        """While it is paused."""
        since, until = self.decided.paused_at, self.decided.paused_until
        return [(since, until or datetime.max.replace(tzinfo=since.tzinfo))] if since else []

    def paused(self, at: datetime) -> bool:
        """Is it, at this instant?"""
        return any(since <= at < until for since, until in self.pause)

    def shut(self, forecast: IntensityForecast, start: datetime, end: datetime) -> list[Stretch]:
        """Steps of the forecast in [start, end) in which it is above what the window allows; what is unknown is not above."""
        if not self.window.limited:
            return []
        steps = [(max(slot.start, start), min(slot.end, end)) for slot in forecast.slots]
        return joined(step for step in steps if step[0] < step[1] and self._is_above(forecast, *step))

    def _is_above(self, forecast: IntensityForecast, since: datetime, until: datetime) -> bool:
        value = forecast.mean_over(since, until)
        most, percentile = self.window.max_intensity_g_per_kwh, self.window.only_if_below_forecast_percentile
        if value is None:
            return False
        if most is not None and value > most:
            return True
        if percentile is None:
            return False
        means = [forecast.mean_over(since + n * _HOUR, since + (n + 1) * _HOUR) for n in range(JUDGED_H)]
        known = sorted(mean for mean in means if mean is not None)
        return len(known) == JUDGED_H and value > _percentile(known, percentile) + 1e-9


class Openings:
    """Of every pool, at one look. `shut`: when windows are shut for the forecast's sake, by name."""

    def __init__(self, standing: Mapping[str, Standing], shut: Mapping[str, Sequence[Stretch]] = {}) -> None:
        self.standing, self.shut = standing, shut
        self._of: defaultdict[str, list[Standing]] = defaultdict(list)
        for one in standing.values():
            self._of[one.window.pool].append(one)

    def stretches(self, pool: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime, float]]:
        """When a pool is open with which share of its replicas, in order and apart; what touches [start, end]."""
        if pool not in self._of:
            return [(start, end, 1.0)]
        return _stacked(
            (since, until, one.window.share)
            for one in self._of[pool]
            for since, until in one.openings(start, end, self.shut.get(one.name, ()))
        )

    def has_open(self, name: str, at: datetime) -> bool:
        """Is this window open at this instant?"""
        return any(since <= at < until for since, until in self.standing[name].openings(at, at, self.shut.get(name, ())))

    def named(self, pool: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime, str]]:
        """The openings of each of a pool's windows that touch [start, end], in order, with its name."""
        return sorted(
            (since, until, one.name)
            for one in self._of.get(pool, ())
            for since, until in one.openings(start, end, self.shut.get(one.name, ()))
        )

    def share(self, pool: str, at: datetime) -> float:
        """Which part of its replicas is open at this instant; 0: none."""
        if pool not in self._of:
            return 1.0
        return max((share for since, until, share in self.stretches(pool, at, at) if since <= at < until), default=0.0)

    def change_at(self, pool: str, at: datetime, within: timedelta) -> datetime | None:
        """When that next changes, where it does so within this time."""
        if pool not in self._of:
            return None
        edges = {edge for since, until, _ in self.stretches(pool, at, at + within) for edge in (since, until)}
        return min((edge for edge in edges if at < edge <= at + within), default=None)

    def layers(
        self, pool: str, replicas: int, now: datetime, horizon_s: float, ruled: Overrides, back: timedelta = timedelta()
    ) -> list[tuple[int, list[tuple[float, float]]]]:
        """So many replicas, and when these are open, in seconds from now; those of several layers add up."""
        pieces = [
            (since, until, part(share, replicas))
            for opens_at, closes_at, share in self.stretches(pool, now - back, now + timedelta(seconds=horizon_s))
            for since, until in ruled.open_between(pool, opens_at, closes_at)
        ]
        found: list[tuple[int, list[tuple[float, float]]]] = []
        for below, level in pairwise([0, *sorted({count for _, _, count in pieces} - {0})]):
            spans = [((a - now).total_seconds(), (b - now).total_seconds()) for a, b, count in pieces if count >= level]
            found.append((level - below, spans))
        return found or [(replicas, [])]

    def judged(self, forecasts: Mapping[str, IntensityForecast], fleet: Fleet, start: datetime, end: datetime) -> Openings:
        """The same, shut where the forecasts (by zone) are above what a window allows."""
        shut = {
            name: one.shut(forecasts[zone], start, end)
            for name, one in self.standing.items()
            if one.window.limited and one.window.pool in fleet.pools and (zone := fleet.zone_of(one.window.pool)) in forecasts
        }
        return Openings(self.standing, {name: found for name, found in shut.items() if found})

    def look_ahead(self) -> timedelta:
        """How much further than a plan looks its forecasts have to go."""
        by_rank = any(one.window.only_if_below_forecast_percentile is not None for one in self.standing.values())
        return JUDGED_H * _HOUR if by_rank else timedelta()

    def remarks(self, now: datetime) -> list[str]:
        """Sentences on windows that are paused, or shut for the forecast's sake."""
        said: list[str] = []
        for name, one in self.standing.items():
            if one.paused(now):
                said.append(f"Window {name} of pool {one.window.pool} is paused: it opens nothing.")
            if any(since <= now < until for since, until in self.shut.get(name, ())):
                said.append(f"Window {name} of pool {one.window.pool} is shut now: the grid's forecast is above what it allows.")
        return said


class Windows:
    """All windows: those of the configuration, and those of the table. Raises InvalidConfiguration for one that never opens."""

    def __init__(self, settings: Settings) -> None:
        self._declared: dict[str, PoolWindow] = {}
        for key, window in windows_by_key(settings.pools, settings.windows).items():
            try:
                check(window)
            except InvalidConfiguration as problem:
                raise InvalidConfiguration(f"key '{key}': {problem.message}") from None
            self._declared[key.removeprefix("windows.")] = window

    def read(self, connection: Connection) -> dict[str, Standing]:
        """As they stand now, by name; where both declare one, the configuration's holds."""
        found = {name: Standing(name, window, configured=True) for name, window in self._declared.items()}
        for kept in windows.every(connection):
            if kept.name in self._declared:
                found[kept.name] = msgspec.structs.replace(found[kept.name], decided=kept.decided)
            elif kept.window is not None:
                found[kept.name] = Standing(kept.name, kept.window, kept.decided)
        return found


def part(share: float, replicas: int) -> int:
    """How many of the replicas a share of them is: whole ones, and at least one, where there are any."""
    return 0 if share <= 0 else min(replicas, max(1, math.floor(share * replicas + 1e-9)))


def capacity(layers: Iterable[tuple[int, list[tuple[float, float]]]], slots: list[Slot]) -> list[float]:
    """Replicas that are open in each slot."""
    return [sum(parts) for parts in zip(*(open_share(slots, spans, count) for count, spans in layers), strict=True)]


def left_by(own: Sequence[float], both: Sequence[float]) -> list[float]:
    """Partners that are open in each slot: of what is open of a pool's own workers and of them together, what those leave."""
    return [round(whole - mine, 9) for mine, whole in zip(own, both, strict=True)]


def outside(parts: Sequence[Stretch], holes: Collection[Stretch]) -> list[Stretch]:
    """What is left of stretches where others are taken out."""
    found = list(parts)
    for since, until in holes:
        found = [
            (a, b)
            for opens_at, closes_at in found
            for a, b in ((opens_at, min(closes_at, since)), (max(opens_at, until), closes_at))
            if a < b
        ]
    return found


def _stacked(parts: Iterable[tuple[datetime, datetime, float]]) -> list[tuple[datetime, datetime, float]]:
    """Stretches apart from one another, each with the largest share that is open then."""
    changes = sorted(change for since, until, share in parts for change in ((since, share, 1), (until, share, -1)))
    found: list[tuple[datetime, datetime, float]] = []
    active = Counter[float]()
    for (at, share, by), (until, _, _) in pairwise(changes):
        active[share] += by
        level = max((each for each, count in active.items() if count > 0), default=0.0)
        if level == 0.0 or at == until:
            continue
        if found and found[-1][1:] == (at, level):
            found[-1] = (found[-1][0], until, level)
        else:
            found.append((at, until, level))
    return found


def _percentile(ordered: Sequence[float], percentile: float) -> float:
    """Of figures in order, with the steps between them drawn as straight lines."""
    place = percentile / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
