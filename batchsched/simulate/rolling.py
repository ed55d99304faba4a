"""The simulation: hour by hour, look at what is known, plan, let the engines run, pay for what came true."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import numpy as np

from batchsched.forecasts.evaluation import Array
from batchsched.planner import Allotment, Job, Plan, PoolState, Problem, Slot, make_slots
from batchsched.planner.last import standing
from batchsched.planner.latest_start import OpenPool, latest_safe_starts, open_pools
from batchsched.profiles.candidates import Candidate
from batchsched.profiles.lengths import Lengths, refine
from batchsched.profiles.profile import Profile
from batchsched.simulate.ceiling import check
from batchsched.simulate.conditions import USUAL, Conditions
from batchsched.simulate.engines import Engines, Served
from batchsched.simulate.futures import Futures
from batchsched.simulate.grid import Floats, Grid
from batchsched.simulate.links import Weights, files_s
from batchsched.simulate.making import grams_per_s
from batchsched.simulate.moves import cells
from batchsched.simulate.outcome import Outcome, Work
from batchsched.simulate.policies import Policy
from batchsched.simulate.scene import CHUNK_REQUESTS, Arrival, Scene
from batchsched.simulate.servers import Servers
from batchsched.spare import Share
from batchsched.units import JOULES_PER_KWH

TICK_S = 3600.0
"""How often new batches are taken up; also the length of slots, unless another is asked for."""
FINE_S = 24 * 3600.0
"""So far ahead slots are shorter than a tick, where that is asked for."""
AFTER_H = 120
"""Hours after the last batch may have come, in which the rest is done."""
LATE_HORIZON_S = 24 * 3600.0
LOOK_BACK_S = 30 * 86400.0
"""For so long what is open now is taken to have been."""
MARGIN_S = 60.0
"""Taken off every latest safe start."""
CONFIDENCE = 0.99
_NONE_LEFT = 1e-6
Progress = Callable[[float], object]


class Batch(msgspec.Struct):
    """A batch that has come and is not done."""

    arrival: Arrival
    left: float
    """Requests; a fraction of one where an hour ends in the middle of it."""


def hours_of(scene: Scene) -> int:
    """How many hours a grid must cover."""
    return scene.days * 24 + AFTER_H


def simulate(
    scene: Scene,
    grid: Grid,
    policy: Policy,
    on_progress: Progress | None = None,
    *,
    slot_s: float = TICK_S,
    conditions: Conditions = USUAL,
) -> Outcome:
    """Run a scene under a policy. `on_progress` is told the share that is done; `slot_s`: of a plan, a part of an hour or hours.
    Of the conditions only pools that are away, and what making the hardware weighs, count here.

    Raises Impossible where it emitted less than any policy could: then the simulation has a fault."""
    world, now_s, end_s = _World(scene, grid, policy, slot_s, conditions), 0.0, grid.hours * 3600.0
    while now_s < end_s and (world.coming or world.batches):
        world.admit(now_s)
        world.replan(now_s)
        world.run(now_s, now_s + TICK_S)
        now_s += TICK_S
        if on_progress:
            on_progress(min(1.0, now_s / (scene.days * 86400.0)))
    world.outcome.embodied_g = math.fsum(one.seconds * world.weighed[one.pool] for one in world.outcome.work)
    world.outcome.unfinished = [*world.batches, *(arrival.batch_id for arrival in world.coming)]
    check(world.outcome, scene, grid)
    return world.outcome


class _World:
    def __init__(self, scene: Scene, grid: Grid, policy: Policy, slot_s: float, conditions: Conditions) -> None:
        self.scene, self.grid, self.policy, self._outages = scene, grid, policy, conditions.outages
        self._slot_s = slot_s
        self.weighed = grams_per_s(scene, conditions.embodied, grid.start)
        self._servers = Servers(scene, grid.start)
        self._known: dict[str, Share] = {}
        """Of spare pools, as the plan was made by it."""
        self._away: frozenset[str] = frozenset()
        self.coming = list(scene.arrivals)
        self.batches: dict[str, Batch] = {}
        self.outcome = Outcome(policy.name, len(scene.arrivals))
        self._planner = policy.planner()
        self._futures = Futures(grid) if policy.risk.weight > 0 else None
        self._weights = Weights(scene.fleet, {name: m for name in scene.rooms for m in scene.fleet.pools[name].models[:1]})
        self._engines = Engines({name: pool.count for name, pool in scene.fleet.pools.items()})
        self._plan, self._made_s = Plan([], []), 0.0
        self._latest: dict[str, float] = {}
        self._stale, self._before_s = True, 0.0
        self._busy: dict[str, int] = {}
        """Engines that worked on each batch in the present piece of time."""

    def admit(self, now_s: float) -> None:
        """Take up what has come."""
        while self.coming and self.coming[0].at_s <= now_s:
            arrival = self.coming.pop(0)
            self.batches[arrival.batch_id] = Batch(arrival, float(arrival.requests))
            self._stale = True

    # -- deciding --

    def replan(self, now_s: float) -> None:
        """Plan again where it is time to, or where something has come."""
        away, self._away = self._away, self._away_at(now_s)
        if not self._stale and away == self._away and now_s % self.policy.replan_s:
            return
        self._stale = False
        self._known = self._servers.known(now_s)
        problem = self._problem(now_s)
        began = time.process_time()
        plan = self._planner(problem, now_s)
        self.outcome.planning_cpu_s += time.process_time() - began
        self.outcome.replans += 1
        self._count_moves(plan, now_s)
        starts = latest_safe_starts(problem.jobs, self._open_pools(problem, now_s), MARGIN_S)
        self._latest = {batch_id: now_s + seconds for batch_id, seconds in starts.items()}
        self._plan, self._made_s = plan, now_s

    def _open_pools(self, problem: Problem, now_s: float) -> list[OpenPool]:
        """The levels of what is expected of spare pools are few, as a server has them."""
        now = self._instant(now_s)
        found = [pool for pool in open_pools(problem) if pool.name not in self._known]
        for state in problem.pools:
            if state.name in self._known and state.replicas:
                whole = OpenPool(state.name, state.replicas, [(-LOOK_BACK_S, problem.end_s)])
                found += self._known[state.name].layers(whole, now)
        return found

    def _instant(self, now_s: float) -> datetime:
        return self.grid.start + timedelta(seconds=now_s)

    def _away_at(self, now_s: float) -> frozenset[str]:
        return frozenset(one.pool for one in self._outages if one.start_s <= now_s < one.end_s)

    def _problem(self, now_s: float) -> Problem:
        jobs = [self._job(batch, now_s) for batch in self.batches.values()]
        needed = max((job.deadline_s for job in jobs), default=0.0)
        if any(job.deadline_s < TICK_S for job in jobs):
            needed = max(needed, LATE_HORIZON_S)
        horizon_s = TICK_S * max(1, math.ceil(needed / TICK_S))
        slots = make_slots(horizon_s, slot_s=self._slot_s, long_slot_s=max(TICK_S, self._slot_s), fine_s=FINE_S)
        pools = [self._pool(name, now_s, slots) for name in self.scene.fleet.pools]
        stood = standing(self._plan, now_s - self._made_s)
        future, limits = self._scenarios(now_s, slots), {"churn": self.policy.churn, "min_run_s": self.policy.min_run_s}
        return Problem(slots, pools, jobs, future, self.policy.risk, [], stood, **limits)

    def _scenarios(self, now_s: float, slots: list[Slot]) -> dict[str, list[list[float]]]:
        """Only a plan that weighs risk looks at them."""
        if self._futures is None:
            return {}
        seen_h = self._seen_h(now_s)
        first = int(now_s) // 3600 - seen_h
        return {zone: slot_means(rows[:, first:], slots).tolist() for zone, rows in self._futures.at(seen_h).items()}

    def _seen_h(self, now_s: float) -> int:
        """The hour whose forecasts are in force."""
        return int(now_s - now_s % self.policy.replan_s) // 3600

    def _pool(self, name: str, now_s: float, slots: list[Slot]) -> PoolState:
        fleet = self.scene.fleet
        pool, site = fleet.pools[name], fleet.site_of(name)
        seen_h, hour = self._seen_h(now_s), int(now_s) // 3600
        ahead = self.grid.perfect(seen_h) if self.policy.sees == "perfect" else self.grid.issued(seen_h)
        first = hour - seen_h
        known = slot_means((ahead.mean[site.zone] + self.policy.lean * ahead.spread[site.zone])[first:], slots)
        values = [round(max(0.0, g), 3) if math.isfinite(g) else None for g in known.tolist()]
        count = 0 if name in self._away else pool.count
        state = PoolState(
            name=name,
            site=pool.site,
            zone=site.zone,
            replicas=count,
            capacity=[float(count)] * len(slots),
            pue=site.pue,
            intensity_g_per_kwh=values,
            loaded=self._engines.loaded(name),
            home=pool.site == fleet.home_site,
            newness=fleet.newness(name),
            embodied_g_per_s=self.weighed[name],
        )
        return self._known[name].state(state, slots, self._instant(now_s)) if name in self._known else state

    def _profile(self, model: str, pool: str) -> Profile:
        """As plans take it."""
        profile = self.scene.profiles[model, pool]
        return self._known[pool].increment(profile) if pool in self._known else profile

    def _startup_s(self, model: str, pool: str, at_s: float) -> float:
        """With the way of the weights, until they are at the site; the servers of others have what they serve."""
        if self.scene.fleet.is_spare(pool):
            return 0.0
        return self.scene.profiles[model, pool].startup_s + self._weights.missing_s(model, pool, at_s)

    def _job(self, batch: Batch, now_s: float) -> Job:
        """As one who has seen no more than the answers so far thinks of it."""
        arrival, left = batch.arrival, max(1, math.ceil(batch.left - _NONE_LEFT))
        asked, answered = arrival.input_tokens, arrival.expected_output_tokens
        blind = Lengths(asked * arrival.requests, answered * arrival.requests, self.scene.sigma_own)
        done = arrival.requests - left
        lengths = Lengths(asked * left, answered * left, 0.0)
        if self.scene.sigma_own > 0:
            lengths = refine(blind, arrival.requests, done, round(asked * done), round(arrival.output_tokens * done))
        able = {name: Candidate(self._profile(arrival.model, name), lengths) for name in arrival.pools}
        fleet, tokens = self.scene.fleet, (lengths.input_tokens, lengths.output_tokens)
        return Job(
            batch_id=arrival.batch_id,
            model=arrival.model,
            remaining_requests=left,
            seconds_on={name: one.seconds + files_s(fleet, name, *tokens, requests=left) for name, one in able.items()},
            power_w_on={name: one.power_w for name, one in able.items()},
            startup_s_on={name: self._startup_s(arrival.model, name, now_s) for name in able},
            deadline_s=arrival.deadline_s - now_s,
            sigma=max(one.sigma for one in able.values()),
            sigma_own=lengths.sigma,
            confidence=CONFIDENCE,
            finish_late=True,
            max_replicas=math.ceil(left / CHUNK_REQUESTS),
            idle_w_on={name: one.profile.idle_w for name, one in able.items()},
        )

    def _count_moves(self, plan: Plan, now_s: float) -> None:
        """How much of the last plan's work ahead is no longer where it was."""
        before = cells(self._plan, self._made_s, now_s, self.batches)
        self.outcome.replanned(before, cells(plan, now_s, now_s, self.batches))

    # -- what then happens --

    def run(self, start_s: float, end_s: float) -> None:
        """Let time pass, from one edge of the plan's slots, deadline or latest start to the next."""
        edges = {self._made_s + slot.start_s for slot in self._plan.slots}
        edges |= {batch.arrival.deadline_s for batch in self.batches.values()} | set(self._latest.values())
        edges |= {at_s for one in self._outages for at_s in (one.start_s, one.end_s)}
        inner = sorted(edge for edge in edges if start_s + 1.0 < edge < end_s - 1.0)
        at_s = start_s
        for edge in [*inner, end_s]:
            if edge - at_s >= 1.0:
                self._piece(at_s, edge)
                at_s = edge

    def _piece(self, at_s: float, to_s: float) -> None:
        away = self._away_at(at_s + 1.0)
        for pool in away:
            self._engines.gone(pool)
        self._engines.begin(to_s - at_s, {**self._servers.left(at_s, to_s), **dict.fromkeys(away, 0.0)})
        self._busy.clear()
        late = [b for b in self.batches.values() if self._latest.get(b.arrival.batch_id, math.inf) <= at_s + 1.0]
        for batch in sorted(late, key=lambda b: (b.arrival.deadline_s, b.arrival.batch_id)):
            for pool in sorted(batch.arrival.pools, key=lambda name: (self._request_s(batch, name), name)):
                self.outcome.hurried_s += self._serve(batch, pool, math.inf, at_s)
        for a in self._due(at_s, to_s):
            if a.batch_id in self.batches:
                share = (to_s - at_s) / (a.end_s - a.start_s)
                speed = self._known[a.pool].speed if a.pool in self._known else 1.0  # in a server's best hour
                self._serve(self.batches[a.batch_id], a.pool, a.seconds * share * speed, at_s)
        for (pool, model), seconds in self._engines.end(self._kept(at_s, to_s)).items():
            if not self.scene.fleet.is_spare(pool):
                self._pay(self._before_s, pool, "", seconds, 0.0, self.scene.profiles[model, pool].idle_w)
        self._before_s = at_s
        self.outcome.missed += [
            name for name, b in self.batches.items() if at_s < b.arrival.deadline_s <= to_s and b.left > _NONE_LEFT
        ]

    def _kept(self, at_s: float, to_s: float) -> dict[tuple[str, str], int]:
        """Engines that the plan keeps ready through this piece without work, by pool and model."""
        t = self._slot(at_s, to_s)
        mine = [hold for hold in self._plan.holds if hold.slot_index == t]
        return {(one.pool, one.model): int(one.seconds / self._plan.slots[one.slot_index].length_s + _NONE_LEFT) for one in mine}

    def _slot(self, at_s: float, to_s: float) -> int:
        """Of the plan, in which this piece lies; -1 after its last."""
        middle = (at_s + to_s) / 2 - self._made_s
        return next((t for t, slot in enumerate(self._plan.slots) if slot.start_s <= middle < slot.end_s), -1)

    def _due(self, at_s: float, to_s: float) -> list[Allotment]:
        """What the plan has for this piece, the earliest deadline first."""
        t = self._slot(at_s, to_s)
        now = [a for a in self._plan.allotments if a.slot_index == t]
        return sorted(now, key=lambda a: (self._plan.due_s.get(a.batch_id, math.inf), a.batch_id, a.pool))

    def _serve(self, batch: Batch, pool: str, seconds: float, at_s: float) -> float:
        """Let a pool work on a batch for up to so many replica-seconds; how many it took."""
        arrival, request_s = batch.arrival, self._request_s(batch, pool)
        if batch.left <= _NONE_LEFT:
            return 0.0
        profile = self.scene.profiles[arrival.model, pool]
        width = math.ceil(batch.left / CHUNK_REQUESTS) - self._busy.get(arrival.batch_id, 0)
        startup_s = self._startup_s(arrival.model, pool, at_s)
        done = self._engines.serve(pool, arrival.model, min(seconds, batch.left * request_s), startup_s, width)
        if done.work_s + done.starting_s <= 0:
            return 0.0
        if done.starts:
            self._weights.fetch_s(arrival.model, pool, at_s)
        self._busy[arrival.batch_id] = self._busy.get(arrival.batch_id, 0) + done.engines
        batch.left -= done.work_s / request_s
        self.outcome.engine_starts += 0 if self.scene.fleet.is_spare(pool) else done.starts
        watts = self.scene.fleet.added_j(pool, profile.power_for(arrival.input_tokens, arrival.output_tokens), 1.0)
        self._pay(at_s, pool, arrival.batch_id, done.work_s + done.starting_s, done.starting_s, watts)
        if batch.left <= _NONE_LEFT:
            self._finish(batch, at_s, done)
        return done.work_s + done.starting_s

    def _finish(self, batch: Batch, at_s: float, done: Served) -> None:
        finished_s = at_s + done.until_s
        arrival = self.batches.pop(batch.arrival.batch_id).arrival
        self.outcome.done(arrival.batch_id, finished_s - arrival.at_s, finished_s - arrival.deadline_s)

    def _pay(self, at_s: float, pool: str, batch_id: str, seconds: float, starting_s: float, watts: float) -> None:
        site = self.scene.fleet.site_of(pool)
        energy_j = seconds * watts * site.pue
        grams = energy_j / JOULES_PER_KWH * float(self.grid.truth[site.zone][int(at_s // 3600)])
        self.outcome.work.append(Work(at_s, pool, batch_id, seconds, starting_s, energy_j, grams))

    def _request_s(self, batch: Batch, pool: str) -> float:
        """Seconds of a replica that a request really takes."""
        arrival = batch.arrival
        tokens = arrival.input_tokens, arrival.output_tokens
        works_s = self.scene.profiles[arrival.model, pool].seconds(*tokens) * arrival.slowness
        return works_s + files_s(self.scene.fleet, pool, *tokens)


def slot_means(hourly: Array, slots: list[Slot]) -> Floats:
    """Values of hours from the plan's origin on, the last axis, as means of its slots; NaN where the hours do not reach."""
    found = np.full((*hourly.shape[:-1], len(slots)), np.nan)
    for t, slot in enumerate(slots):
        hours = slice(int(slot.start_s // TICK_S), math.ceil((slot.end_s - 1e-6) / TICK_S))
        if hours.stop <= hourly.shape[-1]:
            found[..., t] = hourly[..., hours].mean(axis=-1)
    return found
