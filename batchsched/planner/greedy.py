"""A plan without a solver: earliest deadline first, each job into the cheapest slots that still keep its deadline.

One pool that holds all of a job is preferred, since each further pool costs an engine start. Where none does, the fastest pools
are filled one after another; what does not fit by the due time goes into the first free slots after it.
"""

from __future__ import annotations

import math

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.price import Prices, price
from batchsched.planner.problem import Job, PoolState, Problem

_EPS = 1e-9


class _Take(msgspec.Struct):
    """Seconds taken from the slots of one pool for one job, start-up included."""

    pool: str
    seconds: dict[int, float]
    startup_s: float
    width: int
    cost: float


def greedy(problem: Problem, due: dict[str, float]) -> Plan:
    """A plan that respects capacity and deadlines as far as it finds room; never raises. `due`: from due.due_times."""
    prices = price(problem)
    filler = Filler(problem, prices)
    for job in sorted(problem.jobs, key=lambda j: (due[j.batch_id], j.deadline_s, -j.weight, j.batch_id)):
        filler.place(job, due[job.batch_id])
    plan = assess(problem, prices, due, filler.allotments, filler.loads)
    return msgspec.structs.replace(plan, solver="greedy", status="feasible")


class Filler:
    """The free room of the fleet while jobs are placed one by one."""

    def __init__(self, problem: Problem, prices: Prices) -> None:
        self.problem = problem
        self.prices = prices
        self.allotments: list[Allotment] = []
        self.loads: list[Load] = []
        self._pools: dict[str, PoolState] = {pool.name: pool for pool in problem.pools}
        self._room = {p.name: [c * s.length_s for c, s in zip(p.capacity, problem.slots, strict=True)] for p in problem.pools}
        self._cheap = {
            pool.name: sorted(range(len(problem.slots)), key=lambda t: (prices.intensity[pool.name][t], t))
            for pool in problem.pools
        }
        self._hot: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def resume(self, allotments: list[Allotment], loads: list[Load]) -> None:
        """Start from what another solver has placed."""
        jobs = {job.batch_id: job for job in self.problem.jobs}
        self.allotments += allotments
        self.loads += loads
        uses: list[Allotment | Load] = [*allotments, *loads]
        for use in uses:
            self._room[use.pool][use.slot_index] -= use.seconds
        for a in allotments:
            width = math.ceil(a.seconds / self.problem.slots[a.slot_index].length_s - _EPS)
            self._hot.setdefault((jobs[a.batch_id].model_at(a.pool), a.pool), []).append((a.slot_index, width))

    def place(self, job: Job, due_s: float, left: float = 1.0) -> None:
        """Give a job, or the share `left` of it, its slots, as far as there is room."""
        names = [name for name in job.seconds_on if name in self._pools]
        if not names or job.remaining_requests <= 0:
            return
        used: dict[int, float] = {}
        for a in self.allotments if left < 1.0 else []:
            if a.batch_id == job.batch_id:
                used[a.slot_index] = used.get(a.slot_index, 0.0) + a.seconds
        whole = [self._take(job, name, left, due_s, self._cheap[name], used) for name in names]
        fitting = [take for take, share in whole if share >= left - _EPS and take is not None]
        if fitting:
            self._commit(job, min(fitting, key=lambda take: (take.cost, take.pool)), used)
            return
        last = self.problem.end_s if job.finish_late else min(job.deadline_s, self.problem.end_s)
        fastest = sorted(names, key=lambda name: (job.seconds_on[name], name))
        for limit in (due_s, job.deadline_s, last):
            for name in fastest:
                take, share = self._take(job, name, left, min(limit, last), range(len(self.problem.slots)), used)
                if take is not None:
                    self._commit(job, take, used)
                    left -= share
                if left <= _EPS:
                    return

    def _take(
        self, job: Job, pool: str, share: float, limit_s: float, order: list[int] | range, used: dict[int, float]
    ) -> tuple[_Take | None, float]:
        """Slots in that order that end by `limit_s`, for up to `share` of the job; and the share that they hold."""
        work, model = share * job.seconds_on[pool], job.model_at(pool)
        startup = 0.0
        chosen: dict[int, float] = {}
        width = 0
        for _ in range(4):  # more seconds may need more replicas, which need more start-up
            chosen = self._choose(job, pool, work + startup, limit_s, order, used)
            width = max((math.ceil(s / self.problem.slots[t].length_s - _EPS) for t, s in chosen.items()), default=0)
            needed = job.startup_s_on[pool] * max(0, width - self._hot_at(model, pool, min(chosen, default=0)))
            if needed <= startup + _EPS:
                break
            startup = needed
        total = sum(chosen.values())
        held = (total - startup) / job.seconds_on[pool] if job.seconds_on[pool] > 0 else share
        if not chosen or held <= _EPS:
            return None, 0.0
        cost = sum((self.prices.second_g(job, pool, t) + self.prices.wait_g_per_s[t]) * s for t, s in chosen.items())
        return _Take(pool, chosen, startup, width, cost), min(held, share)

    def _choose(
        self, job: Job, pool: str, seconds: float, limit_s: float, order: list[int] | range, used: dict[int, float]
    ) -> dict[int, float]:
        chosen: dict[int, float] = {}
        room, slots = self._room[pool], self.problem.slots
        for t in order:
            if seconds <= _EPS:
                break
            if slots[t].end_s > limit_s + _EPS:
                continue
            take = min(seconds, room[t], job.width * slots[t].length_s - used.get(t, 0.0))
            if take > _EPS:
                chosen[t] = take
                seconds -= take
        return chosen

    def _hot_at(self, model: str, pool: str, slot: int) -> int:
        """Replicas of a pool that hold the model when the slot begins, as far as is planned so far."""
        before = [width for first, width in self._hot.get((model, pool), []) if first <= slot]
        return max([self._pools[pool].loaded.count(model), *before])

    def _commit(self, job: Job, take: _Take, used: dict[int, float]) -> None:
        startup, ready, model = take.startup_s, min(take.seconds), job.model_at(take.pool)
        for t in sorted(take.seconds):
            seconds = take.seconds[t]
            self._room[take.pool][t] -= seconds
            used[t] = used.get(t, 0.0) + seconds
            loading = min(startup, seconds)
            startup -= loading
            if loading > _EPS:
                ready = t
                self.loads.append(Load(job.batch_id, model, take.pool, t, loading))
            if seconds - loading > _EPS:
                self.allotments.append(allot(self.problem, job, take.pool, t, seconds - loading))
        self._hot.setdefault((model, take.pool), []).append((ready, take.width))


def allot(problem: Problem, job: Job, pool: str, slot: int, seconds: float) -> Allotment:
    """An allotment of that many replica-seconds; it may be used at any time within its slot."""
    requests = job.remaining_requests * seconds / job.seconds_on[pool]
    return Allotment(job.batch_id, pool, slot, problem.slots[slot].start_s, problem.slots[slot].end_s, requests, seconds)
