"""A plan as people see it: instants instead of seconds, what each pool has open, how clean its zone is then."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from batchsched.clock import Clock
from batchsched.errors import NotFound
from batchsched.fleet import Fleet
from batchsched.forecasts import IntensityForecast
from batchsched.planner import PoolState, Problem, Slot
from batchsched.planner.plan import Hold, Load, key_of
from batchsched.published import Published
from batchsched.queue import overrides, plans
from batchsched.queue.database import Database
from batchsched.scheduler import Scheduler
from batchsched.server.pools import frozen_object
from batchsched.units import iso


class PlanDesk:
    """What the routes about the plan answer."""

    def __init__(self, database: Database, scheduler: Scheduler, clock: Clock) -> None:
        self._database = database
        self._scheduler = scheduler
        self._clock = clock

    def shown(self) -> dict[str, Any]:
        """The plan in force, as JSON. Raises NotFound before the first."""
        published = self.in_force()
        with self._database.read() as connection:
            frozen = overrides.active(connection, self._clock.now()).frozen
        return plan_object(published, self._scheduler.fleet, frozen)

    def plot(self, kind: str) -> bytes:
        """The same as a picture; `kind`: png or svg. Raises NotFound, InvalidValue."""
        from batchsched.server.plan_plot import draw_plan

        published = self.in_force()
        with self._database.read() as connection:
            row = plans.latest(connection, by=published.made_at)
        kept = row["body"]["forecasts"] if row else {}
        forecasts = {zone: IntensityForecast.from_rows(rows) for zone, rows in kept.items()}
        return draw_plan(published, forecasts, self._clock.now(), kind)

    def in_force(self) -> Published:
        """Raises NotFound before the first."""
        published = self._scheduler.published
        if published is None:
            raise NotFound("There is no plan yet; the server has just started.")
        return published


def plan_object(published: Published, fleet: Fleet, frozen: overrides.Override | None = None) -> dict[str, Any]:
    """A published plan as the API answers it. What has one entry a slot goes by the plan's slots, which may be finer than those
    of the problem that it solves."""
    plan, at = published.plan, published.at
    return {
        "id": published.id,
        "made_at": iso(published.made_at),
        "solver": plan.solver,
        "status": plan.status,
        "frozen": frozen_object(frozen),
        "slots": [iso(at(slot.start_s)) for slot in plan.slots],
        "end_at": iso(at(plan.slots[-1].end_s if plan.slots else 0.0)),
        "allotments": [
            {
                "batch_id": a.batch_id,
                "pool": a.pool,
                "start_at": iso(at(a.start_s)),
                "end_at": iso(at(a.end_s)),
                "requests": a.requests,
                "seconds": a.seconds,
            }
            for a in plan.allotments
        ],
        "loads": [_engine(published, load) for load in plan.loads],
        "holds": [{**_engine(published, hold), "power_w": hold.power_w} for hold in plan.holds],
        "pools": _pools(published, fleet),
        "latest_safe_start_at": {name: iso(latest) if latest else None for name, latest in published.latest_start_at.items()},
        "late": plan.late,
        "grams_expected": plan.grams_expected,
        "grams_interval": asdict(plan.grams_interval) if plan.grams_interval else None,
        "notes": [*published.notes, *plan.notes],
    }


def _engine(published: Published, one: Load | Hold) -> dict[str, Any]:
    """What an engine does in a slot besides work."""
    slot = published.plan.slots[one.slot_index]
    return {
        "batch_id": one.batch_id,
        "model": one.model,
        "pool": one.pool,
        "start_at": iso(published.at(slot.start_s)),
        "end_at": iso(published.at(slot.end_s)),
        "seconds": one.seconds,
    }


def _pools(published: Published, fleet: Fleet) -> list[dict[str, Any]]:
    of, capacity = parents(published), with_partners(published.problem)
    return [
        {
            "name": state.name,
            "site": state.site,
            "zone": state.zone,
            "simulated": state.simulated,
            "gpu": fleet.pools[state.name].gpu if state.name in fleet.pools else "",
            "connected": state.name in published.connected or any(link.pool == state.name for link in published.problem.links),
            "open": bool(state.capacity and capacity[state.name][0] > 0),
            "replicas": replicas_of(published.problem, state),
            "capacity": [capacity[state.name][t] for t in of],
            "intensity_g_per_kwh": [state.intensity_g_per_kwh[t] for t in of],
        }
        for state in published.problem.pools
    ]


def parents(published: Published) -> list[int]:
    """Of each of the plan's slots, the problem's slot in which it lies."""
    starts = [slot.start_s for slot in published.problem.slots]
    return [max(0, bisect_right(starts, _middle(slot)) - 1) for slot in published.plan.slots]


def with_partners(problem: Problem) -> dict[str, list[float]]:
    """Replicas of each pool that are open in each slot, with those that serve beside other pools' workers."""
    found = {state.name: list(state.capacity) for state in problem.pools}
    for link in problem.links:
        if link.pool in found:
            found[link.pool] = [own + beside for own, beside in zip(found[link.pool], link.capacity, strict=True)]
    return found


def replicas_of(problem: Problem, state: PoolState) -> int:
    """In service, with those that serve beside other pools' workers."""
    beside = (max(link.capacity, default=0.0) for link in problem.links if link.pool == state.name)
    return state.replicas + math.ceil(sum(beside))


def shares_of_use(published: Published) -> Mapping[str, list[float]]:
    """Replicas at work on average in each of the plan's slots, engine starts included, by pool."""
    slots, problem = published.plan.slots, published.problem
    used = {state.name: [0.0] * len(slots) for state in problem.pools}
    pool_of = {name: name for name in used} | {link.name: link.pool for link in problem.links}
    for use in published.plan.uses:
        job = published.jobs[use.batch_id]
        for name, taken in job.configuration(key_of(job, use)).shares:
            if pool := pool_of.get(name):
                used[pool][use.slot_index] += taken * use.seconds / slots[use.slot_index].length_s
    return used


def _middle(slot: Slot) -> float:
    return slot.start_s + slot.length_s / 2
