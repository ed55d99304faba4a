"""Spare pools as plans see them: so much capacity in each hour of the week, at what our work adds to the servers' draw.

The online service keeps the servers on: their idle watts, what it took to make them and the start of their engines are its own,
and no decision of ours changes them. So plans weigh the increment alone; reports show the attributed share beside it.

A replica of a spare pool is a server in its best hour of the week: it does what is expected to be spare then, and in other hours
the capacity is that much less.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from statistics import fmean

import msgspec

from batchsched.fleet import Fleet
from batchsched.planner import PoolState, Slot
from batchsched.planner.latest_start import OpenPool
from batchsched.planner.problem import Supply
from batchsched.profiles.measured import Observation
from batchsched.profiles.profile import Profile
from batchsched.profiles.spare import HOURS, PRIOR_SAMPLES, PRIOR_SHARE, Latest, Spare, learn
from batchsched.queue.spare import QUARTER_S, SpareHour, hour_of_week

USUAL_MIX = 512.0, 128.0
"""Tokens of prompts and of answers where none were seen: only their ratio counts, and it is our assumption."""
LEVELS = 5
"""Of capacity, for the latest safe start."""
_HOUR_S = 3600.0
_LEAST = 1e-3
"""Of what a server does alone, what its best hour counts as where nothing was ever spare: so that all figures stay sound."""


class Share(msgspec.Struct, frozen=True, dict=True):
    """What online users leave of one server of a pool. `alone_tokens_per_s`: what it would do were it ours alone."""

    spare: Spare
    alone_tokens_per_s: float

    @cached_property
    def best_tokens_per_s(self) -> float:
        """Expected in the best hour of the week: each hour of each slot is held against it."""
        return max(*self.spare.tokens_per_s, _LEAST * self.alone_tokens_per_s)

    @property
    def speed(self) -> float:
        """How fast a server works for us in its best hour, by what it would do alone."""
        return self.best_tokens_per_s / self.alone_tokens_per_s

    def of_hour(self, hour: int) -> float:
        """What is expected to be spare in an hour of the week, by its best."""
        return self.spare.tokens_per_s[hour % HOURS] / self.best_tokens_per_s

    def expected(self, at: datetime) -> float:
        """Offline tokens a second at an instant: the latest quarter tells of the hours after it too."""
        return self.spare.expected(hour_of_week(at), at)

    def between(self, start: datetime, end: datetime) -> float:
        """What is expected within an hour of the clock, by the best."""
        return min(1.0, self.expected(start + (end - start) / 2) / self.best_tokens_per_s)

    def over(self, start: datetime, end: datetime) -> float:
        """The same, as a mean over a stretch of time."""
        total, at = 0.0, start
        while at < end:
            until = min(end, at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))
            total += self.between(at, until) * (until - at).total_seconds()
            at = until
        return total / max(1e-6, (end - start).total_seconds())

    def increment(self, known: Profile) -> Profile:
        """A profile as plans take it: at that speed, with the watts that our work adds."""
        return added(known, self.speed, startup_s=0.0)

    def state(self, state: PoolState, slots: Sequence[Slot], now: datetime) -> PoolState:
        """A pool with its capacity slot by slot, how sure that is, and nothing of what is the online service's."""
        spans = [(now + timedelta(seconds=slot.start_s), now + timedelta(seconds=slot.end_s)) for slot in slots]
        speed = [self.over(*span) for span in spans]
        return msgspec.structs.replace(
            state,
            capacity=[open_ * part for open_, part in zip(state.capacity, speed, strict=True)],
            speed=speed,
            supply=self._supply(state.supply),
        )

    def layers(self, pool: OpenPool, now: datetime) -> list[OpenPool]:
        """When a pool is open with how many replicas; what is over is taken to have been as the mean of all hours."""
        usual, supply = fmean(self.of_hour(hour) for hour in range(HOURS)), self._supply(pool.supply)
        hours = [hour for a, b in pool.intervals for hour in self._hours(a, b, now, usual)]
        found: list[OpenPool] = []
        for level in range(1, LEVELS + 1):
            spans = [(since, until) for since, until, capacity in hours if _reaches(capacity, level / LEVELS)]
            found.append(OpenPool(pool.name, pool.replicas / LEVELS, spans, supply, usual))
        return found

    def _hours(self, a: float, b: float, now: datetime, usual: float) -> list[tuple[float, float, float]]:
        """The hours of a stretch, in seconds from now, each with its capacity; what is over is one, with the usual capacity."""
        found = [(a, min(b, 0.0), usual)] if a < 0 else []
        at = max(a, 0.0)
        while at < b:
            instant = now + timedelta(seconds=at)
            until = min(b, at + _HOUR_S - (instant.minute * 60 + instant.second + instant.microsecond / 1e6))
            found.append((at, until, self.between(instant, instant + timedelta(seconds=until - at))))
            at = until
        return found

    def _supply(self, known: Supply) -> Supply:
        return msgspec.structs.replace(
            known,
            sigma=math.hypot(known.sigma, self.spare.sigma),
            slot_sigma=math.hypot(known.slot_sigma, self.spare.slot_sigma),
            steady_s=float(QUARTER_S),
        )


def added(known: Profile, speed: float = 1.0, startup_s: float | None = None) -> Profile:
    """A profile of a machine that is on for others anyway: with the watts above its idle ones, at so much of its speed."""
    reading_w = None if known.input_power_w is None else max(0.0, known.input_power_w - known.idle_w) * speed
    return msgspec.structs.replace(
        known,
        input_tokens_per_s=known.input_tokens_per_s * speed,
        output_tokens_per_s=known.output_tokens_per_s * speed,
        power_w=max(0.0, known.power_w - known.idle_w) * speed,
        input_power_w=reading_w,
        idle_w=0.0,
        startup_s=known.startup_s if startup_s is None else startup_s,
    )


def _reaches(capacity: float, level: float) -> bool:
    """To the nearest level."""
    return round(capacity * LEVELS) >= round(level * LEVELS)


def shares(
    fleet: Fleet,
    seen: Iterable[SpareHour],
    profiles: Mapping[tuple[str, str], Profile],
    observations: Sequence[Observation] = (),
    loaded: Mapping[str, Sequence[str]] = {},
) -> dict[str, Share]:
    """Of each spare pool that may serve a model; by the model that its servers have loaded, where that is known."""
    rows: dict[str, list[SpareHour]] = {}
    for row in seen:
        rows.setdefault(row.pool, []).append(row)
    found: dict[str, Share] = {}
    for name, pool in fleet.pools.items():
        models = [model for model in (*loaded.get(name, ()), *fleet.models) if (model, name) in profiles]
        if pool.kind == "spare" and models:
            alone = _tokens_per_s(profiles[models[0], name], observations)
            mine = rows.get(name, [])
            found[name] = Share(learn([(row.hour_of_week, row.samples) for row in mine], alone, _latest(mine)), alone)
    return found


def _latest(rows: Sequence[SpareHour]) -> Latest | None:
    """The mean of the servers that were seen in it."""
    began_at = max((row.last_at for row in rows if row.last_at), default=None)
    if began_at is None:
        return None
    mean = fmean(row.samples[-1] for row in rows if row.last_at == began_at)
    return Latest(hour_of_week(began_at), mean, began_at + timedelta(seconds=QUARTER_S))


def _tokens_per_s(known: Profile, observations: Sequence[Observation]) -> float:
    """Prompts and answers together, in the mix that the pool did last."""
    mine = [seen for seen in observations if (seen.model, seen.pool) == (known.model, known.pool) and not seen.piece]
    read, written = float(sum(seen.input_tokens for seen in mine)), float(sum(seen.output_tokens for seen in mine))
    read, written = (read, written) if read + written > 0 else USUAL_MIX
    return (read + written) / known.seconds(read, written)


def part_of(ceiling: int, desk: str, desks: Collection[str]) -> int:
    """Of the requests that may be at a server what falls to one of the desks that share it: equal parts that add up to all, and
    at least one."""
    many, at = len(desks), sorted(desks).index(desk)
    return max(1, ceiling * (at + 1) // many - ceiling * at // many)


def remarks(found: Mapping[str, Share]) -> list[str]:
    """What to tell of pools of which little is known."""
    return [
        f"Pool {name}: what online users leave was seen for {share.spare.samples / 4:g} h; a cautious {PRIOR_SHARE:.0%} of what "
        "a server does alone counts as much or more."
        for name, share in sorted(found.items())
        if share.spare.samples <= PRIOR_SAMPLES
    ]


def planned(
    states: Sequence[PoolState],
    pools: Sequence[OpenPool],
    found: Mapping[str, Share],
    slots: Sequence[Slot],
    now: datetime,
    fleet: Fleet,
) -> tuple[list[PoolState], list[OpenPool]]:
    """All pools: the spare ones with what online users leave, and no making of machines that are on for others anyway."""
    seen = [found[state.name].state(state, slots, now) if state.name in found else state for state in states]
    nothing = {"embodied_g_per_s": 0.0, "embodied_sigma": 0.0}
    seen = [msgspec.structs.replace(state, **nothing) if fleet.adds_only(state.name) else state for state in seen]
    layers = [layer for pool in pools for layer in (found[pool.name].layers(pool, now) if pool.name in found else [pool])]
    return seen, layers
