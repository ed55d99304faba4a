"""What would be, were a deadline, a pool, a site or a zone another: asked of the plan in force, which stays as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, InvalidValue
from batchsched.forecasts import Provider, one_signal
from batchsched.openings import capacity
from batchsched.planner import Plan, PoolState, Problem, Slot, make_plan, make_slots
from batchsched.planner.whatif import ByPrices, Changes, Copy, best, by_prices, changed, grams, late
from batchsched.planning import Planner
from batchsched.published import Published
from batchsched.queue import batches
from batchsched.queue.database import Database
from batchsched.scheduler import Scheduler
from batchsched.server.options import deadline_of
from batchsched.units import format_duration, format_grams, iso, parse_duration_s

MOST_REPLICAS = 10_000
_NOTHING_G = 1e-3
_T = TypeVar("_T")


class Asked(msgspec.Struct, frozen=True):
    """As it was asked, each in the words of the address."""

    deadlines: Sequence[str] = ()
    """BATCH=+2h, BATCH=-30m, or BATCH= and a deadline."""
    pools: Sequence[str] = ()
    """NAME=+2 or NAME=-1."""
    without_sites: Sequence[str] = ()
    with_zones: Sequence[str] = ()
    """POOL=ZONE."""


class WhatIf:
    """Answers such questions."""

    def __init__(self, database: Database, scheduler: Scheduler, provider: Provider, clock: Clock, limits: Planner) -> None:
        self._database = database
        self._scheduler = scheduler
        self._provider = provider
        self._clock = clock
        self._limits = limits

    def answer(self, published: Published, asked: Asked) -> dict[str, Any]:
        """As JSON. Raises InvalidValue; ForecastUnavailable, SignalMismatch for a zone."""
        deadlines = _once("deadline", [self._deadline(published, text) for text in asked.deadlines])
        until_s = max(deadlines.values(), default=0.0)
        before = self._extended(published, until_s)
        copies = [self._copy(published, before, text) for text in asked.with_zones]
        changes = Changes(deadlines, _once("pool", [_replicas(text) for text in asked.pools]), list(asked.without_sites), copies)
        after = changed(before, changes)
        return self._compared(published, before, after, _in_words(published, changes))

    def _compared(self, published: Published, before: Problem, after: Problem, words: list[str]) -> dict[str, Any]:
        frozen = published.overrides.frozen is not None
        told = None if frozen else by_prices(before, after)
        old, new, failed = self._solved(published, before, after)
        (old_g, _), (new_g, unknown) = grams(old), grams(new)
        names = sorted({*old.grams_expected, *new.grams_expected})
        pairs = [(name, old.grams_expected.get(name), new.grams_expected.get(name)) for name in names]
        pairs = [(name, was, will) for name, was, will in pairs if was is None or will is None or abs(was - will) > 1e-6]
        return {
            "id": published.id,
            "made_at": iso(published.made_at),
            "changes": words,
            "grams_before": old_g,
            "grams_after": new_g,
            "difference_g": new_g - old_g,
            "by_prices_g": told.grams if told else None,
            "late": [msgspec.to_builtins(one) for one in late(old, new)],
            "batches": [{"batch_id": name, "grams_before": was, "grams_after": will} for name, was, will in pairs],
            "unknown": unknown,
            "solvers": [old.solver, new.solver],
            "gaps": [old.gap, new.gap],
            "notes": [*failed, *_notes(told, frozen, [old.gap, new.gap])],
        }

    def _solved(self, published: Published, before: Problem, after: Problem) -> tuple[Plan, Plan, list[str]]:
        """Both plans, made in one way, and a note where that is not the usual one. What is found for one problem, and what is in
        force, counts for the other too where it keeps its rules: more freedom never costs anything."""
        frozen = published.overrides.frozen is not None
        made = self._scheduler.solved(before, after, frozen=frozen)
        old, new = (one.plan for one in made)
        notes: list[str] = []
        if why := next((one.stood_in for one in made if one.stood_in), ""):
            notes = [f"The solver gave no plan ({why}): both plans are greedy ones. Ask again for better ones."]
            old, new = make_plan(before, "greedy"), make_plan(after, "greedy")
        if not frozen:
            old = best(before, old, [new, published.plan])
            new = best(after, new, [published.plan, old])
        return old, new, notes

    def _deadline(self, published: Published, text: str) -> tuple[str, float]:
        batch_id, value = _pair(text, "deadline", "BATCH=+2h")
        job = published.jobs.get(batch_id)
        if job is None:
            raise InvalidValue(f"The plan in force has no batch '{batch_id[:64]}'.", param="deadline")
        if value[0] in "+-":
            moved = parse_duration_s(value[1:]) * (-1 if value[0] == "-" else 1)
            return batch_id, job.deadline_s + moved
        return batch_id, (deadline_of(value, self._clock.now(), "deadline") - published.made_at).total_seconds()

    def _extended(self, published: Published, until_s: float) -> Problem:
        """The problem in force with further slots up to `until_s`, as open and as clean as was known when it was made."""
        problem, limits = published.problem, self._limits
        until_s = min(until_s, limits.horizon_h * 3600)  # as far as any plan looks
        if not problem.slots or until_s <= problem.end_s:
            return problem
        fine_s = limits.fine_h * 3600 - problem.end_s
        steps = make_slots(until_s - problem.end_s, slot_s=limits.slot_s, long_slot_s=limits.long_slot_s, fine_s=fine_s)
        more = [Slot(problem.end_s + step.start_s, step.length_s) for step in steps]
        means = {zone: self._means(published, zone, more, until_s) for zone in {pool.zone for pool in problem.pools}}
        with self._database.read() as connection:
            opened = self._scheduler.doors.openings(connection)
        pools: list[PoolState] = []
        for pool in problem.pools:
            gone = pool.name not in self._scheduler.fleet.pools
            layers = [] if gone else opened.layers(pool.name, pool.replicas, published.made_at, until_s, published.overrides)
            further = capacity(layers, more) if layers else [0.0] * len(more)
            left = pool.speed[-1] if pool.speed else 1.0
            longer = {
                "capacity": [*pool.capacity, *(left * replicas for replicas in further)],
                "intensity_g_per_kwh": [*pool.intensity_g_per_kwh, *means[pool.zone]],
                "speed": [*pool.speed, *pool.speed[-1:] * len(more)],
            }
            pools.append(msgspec.structs.replace(pool, **longer))
        scenarios = {
            zone: [[*row, *(row[-1] if mean is None else mean for mean in means[zone])] for row in futures]
            for zone, futures in problem.scenarios.items()
        }
        links = [msgspec.structs.replace(one, capacity=[*one.capacity, *one.capacity[-1:] * len(more)]) for one in problem.links]
        slots = [*problem.slots, *more]
        return msgspec.structs.replace(problem, slots=slots, pools=pools, scenarios=scenarios, links=links)

    def _means(self, published: Published, zone: str, slots: Sequence[Slot], until_s: float) -> list[float | None]:
        """A zone's forecast of slots as it was known when the plan was made; None where it was not."""
        try:
            forecast = self._provider.forecast(zone, published.made_at, published.at(until_s))
        except ForecastUnavailable:
            return [None] * len(slots)
        return [forecast.mean_over(published.at(slot.start_s), published.at(slot.end_s)) for slot in slots]

    def _copy(self, published: Published, problem: Problem, text: str) -> Copy:
        pool, zone = _pair(text, "with_zone", "POOL=ZONE")
        one_signal(self._provider, [*{state.zone for state in problem.pools}, zone])
        return Copy(pool, zone, self._means(published, zone, problem.slots, problem.end_s), self._free())

    def _free(self) -> frozenset[str]:
        """Batches that do not say where they may run."""
        with self._database.read() as connection:
            rows = batches.runnable(connection)
        return frozenset(row["id"] for row in rows if not row["options"].get("sites") and not row["options"].get("zones"))


def _pair(text: str, param: str, shape: str) -> tuple[str, str]:
    name, _, value = text.rpartition("=")
    if not name or not value.strip():
        raise InvalidValue(f"'{text[:100]}' is not of the form {shape}.", param=param)
    return name, f"+{value.strip()}" if value.startswith(" ") else value.strip()  # a + in an address stands for a space


def _once(param: str, pairs: list[tuple[str, _T]]) -> dict[str, _T]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidValue(f"Each {param} can be changed once in a question.", param=param)
    return found


def _replicas(text: str) -> tuple[str, int]:
    name, value = _pair(text, "pool", "NAME=+2")
    if value[0] not in "+-" or not value[1:].isdecimal() or not 0 < int(value[1:]) <= MOST_REPLICAS:
        raise InvalidValue(f"'{value[:100]}' is no change of replicas: write +2 for two more, -1 for one fewer.", param="pool")
    return name, int(value)


def _in_words(published: Published, changes: Changes) -> list[str]:
    def moved(name: str, at_s: float) -> str:
        by_s, at = at_s - published.jobs[name].deadline_s, published.at(at_s)
        year = "" if at.year == published.made_at.year else f" {at.year}"
        return f"{name} due {format_duration(abs(by_s))} {'later' if by_s > 0 else 'earlier'}, at {at:%d %b}{year} {at:%H:%M UTC}"

    def resized(name: str, more: int) -> str:
        more = max(more, -published.problem.pool(name).replicas)
        return f"replicas of pool {name}: {abs(more)} {'more' if more > 0 else 'fewer'}"

    return [
        *(moved(name, at_s) for name, at_s in changes.deadlines.items()),
        *(resized(name, more) for name, more in changes.replicas.items()),
        *(f"without site {site}" for site in changes.without),
        *(f"a copy of pool {copy.pool} in zone {copy.zone} (simulated)" for copy in changes.copies),
    ]


def _notes(told: ByPrices | None, frozen: bool, gaps: Sequence[float | None]) -> list[str]:
    if frozen:
        return ["Shifting is frozen: both plans run everything at once, and prices say nothing of that."]
    return [_by_prices(told), _how_good(gaps)]


def _by_prices(told: ByPrices | None) -> str:
    if told is None:
        return "There are no prices: nothing is planned, or too much for an answer at once."
    if told.grams is None:
        return f"By prices {'more' if told.late else 'less'} work would be late; grams do not measure that."
    if abs(told.grams) < _NOTHING_G:
        return "By prices it would make no difference."
    kind = f"save at most {format_grams(-told.grams)}" if told.grams < 0 else f"cost at least {format_grams(told.grams)}"
    return f"By prices it would {kind}; starts of engines are left out there."


def _how_good(gaps: Sequence[float | None]) -> str:
    """How good the plans are, of which the difference is told."""
    known = [f"{gap:.1%}" for gap in gaps if gap is not None and math.isfinite(gap)]
    if len(known) < len(gaps):
        return "How far the plans are from the best ones is not known."
    return f"The plans are at most {' and '.join(known)} above the best ones, and their difference is no surer than that."
