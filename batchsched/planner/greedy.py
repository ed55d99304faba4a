"""A plan without a solver: earliest deadline first, each job into the cheapest slots that still keep its deadline.

One pool that holds all of a job is preferred, since each further pool costs an engine start. Where none does, pools are filled
one after another, the cheapest first; what does not fit by the due time goes into the first free slots after it, fastest pools
first. Where work is late in the end, the same is tried without a look at the cost, and by weight; the best of these plans counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.engines import Engines, Room
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.price import Prices, late_marks, price
from batchsched.planner.problem import Job, Problem
from batchsched.units import JOULES_PER_KWH

_EPS = 1e-9
_EPS_S = 1e-6
_Order = Callable[[int], Iterable[int]]


class _Take(msgspec.Struct):
    """Seconds to take from the slots of one pool for one job, start-up included; the share of the job that they hold."""

    pool: str
    seconds: dict[int, float]
    share: float
    cost: float


def greedy(problem: Problem, due: dict[str, float]) -> Plan:
    """A plan that respects capacity and deadlines as far as it finds room; never raises. `due`: from due.due_times."""
    prices = price(problem)
    order = sorted(problem.jobs, key=lambda j: (due[j.batch_id], j.deadline_s, -j.weight, j.batch_id))
    best = _filled(problem, prices, due, order)
    if best.late or best.later:
        others = [_filled(problem, prices, due, order, hurry=True)]
        if len({job.weight for job in order}) > 1:
            others.append(_filled(problem, prices, due, sorted(order, key=lambda j: -j.weight)))
        best = min([best, *others], key=lambda plan: plan.objective)
    return msgspec.structs.replace(best, solver="greedy", status="feasible")


def _filled(problem: Problem, prices: Prices, due: dict[str, float], order: list[Job], hurry: bool = False) -> Plan:
    filler = Filler(problem, prices)
    for job in order:
        filler.place(job, due[job.batch_id], hurry=hurry)
    return assess(problem, prices, due, filler.allotments, filler.loads)


class _Pool:
    """A pool while it is filled. `cheap`: its slots with room left that end by the latest due time so far, cheapest first."""

    def __init__(self, intensity: list[float], room: Room, embodied_g_per_s: float) -> None:
        self.intensity = intensity
        self.room = room
        self.embodied_g_per_s = embodied_g_per_s
        self.cheap: list[tuple[float, int]] = []
        self._entered = 0

    def enter(self, slots: int) -> None:
        """Slots up to there come into consideration."""
        for t in range(self._entered, slots):
            if self.room.seconds[t] > _EPS:
                insort(self.cheap, (self.intensity[t], t))
        self._entered = max(self._entered, slots)

    def second_g(self, power_w: float) -> float:
        """Grams of a replica-second in the cheapest slot; infinite where there is none."""
        return power_w / JOULES_PER_KWH * self.cheap[0][0] + self.embodied_g_per_s if self.cheap else float("inf")

    def choose(
        self, order: Iterable[int], seconds: float, width: int, lengths: list[float], used: dict[int, float]
    ) -> dict[int, float]:
        """Seconds of slots in that order."""
        chosen: dict[int, float] = {}
        room = self.room.seconds
        for t in order:
            take = min(seconds, room[t], width * lengths[t] - used.get(t, 0.0))
            if take > _EPS:
                chosen[t] = take
                seconds -= take
                if seconds <= _EPS:
                    break
        return chosen

    def by_cost(self, until: int) -> Iterator[int]:
        """Slots among the first so many, the cheapest first."""
        return (t for _, t in self.cheap if t < until)

    def by_time(self, until: int) -> range:
        """The same, in order."""
        return range(self.room.first(), until)

    def close(self, slot: int) -> None:
        """One without room is not looked at again."""
        if self.room.seconds[slot] <= _EPS:
            at = bisect_left(self.cheap, (self.intensity[slot], slot))
            if at < len(self.cheap) and self.cheap[at][1] == slot:
                del self.cheap[at]


class Filler:
    """The free room of the fleet while jobs are placed one by one. Fastest where due times come in order."""

    def __init__(self, problem: Problem, prices: Prices) -> None:
        self.problem = problem
        self.prices = prices
        self.allotments: list[Allotment] = []
        self.loads: list[Load] = []
        self._lengths = [slot.length_s for slot in problem.slots]
        self._ends = [slot.end_s for slot in problem.slots]
        self._states = {pool.name: pool for pool in problem.pools}
        self._pools = {
            p.name: _Pool(prices.intensity[p.name], Room(problem, p), prices.embodied_g_per_s[p.name]) for p in problem.pools
        }
        self._engines: dict[tuple[str, str], Engines] = {}
        self._used: dict[str, dict[int, float]] = {}

    def resume(self, allotments: list[Allotment], loads: list[Load]) -> None:
        """Start from what another solver has placed."""
        jobs = {job.batch_id: job for job in self.problem.jobs}
        self.allotments += allotments
        self.loads += loads
        for a in allotments:
            self._engines_of(jobs[a.batch_id].model_at(a.pool), a.pool).work(a.slot_index, a.seconds)
            used = self._used.setdefault(a.batch_id, {})
            used[a.slot_index] = used.get(a.slot_index, 0.0) + a.seconds
        for load in loads:
            engines = self._engines_of(load.model, load.pool)
            engines.work(load.slot_index, load.seconds)
            engines.starts[load.slot_index] += load.starts
        for engines in self._engines.values():
            engines.settle()

    def place(self, job: Job, due_s: float, left: float = 1.0, hurry: bool = False) -> None:
        """Give a job, or the share `left` of it, its slots, as far as there is room. `hurry`: whatever it costs."""
        names = [name for name in job.seconds_on if name in self._pools]
        if not names or job.remaining_requests <= 0:
            return
        used = self._used.get(job.batch_id, {})
        fastest = sorted(names, key=lambda name: (job.seconds_on[name], name))
        if not hurry:
            left -= self._cheaply(job, names, left, self._until(due_s), used)
        if left <= _EPS:
            return
        for limit in (due_s, job.deadline_s, *late_marks(self.problem, job)):
            until = self._until(limit)
            for name in fastest:
                take = self._take(job, name, left, self._pools[name].by_time, until, used)
                left -= self._commit(job, take, left, until, used) if take else 0.0
                if left <= _EPS:
                    return

    def follow(self, job: Job, pool: str, seconds: dict[int, float], left: float) -> float:
        """Put up to the share `left` where another plan has it (seconds by slot, engine starts included); the share placed."""
        work, used = job.seconds_on[pool], self._used.get(job.batch_id, {})
        share = min(left, sum(seconds.values()) / work) if work > 0 else left
        return self._commit(job, _Take(pool, seconds, share, 0.0), share, len(self._lengths), used)

    def _until(self, at_s: float) -> int:
        """How many slots end by then."""
        return bisect_right(self._ends, at_s + _EPS_S)

    def _cheaply(self, job: Job, names: list[str], left: float, until: int, used: dict[int, float]) -> float:
        """Into the pool that holds it all for the least cost, or into the cheapest ones one after another; the share placed."""
        for name in names:
            self._pools[name].enter(until)
        least = {name: self._pools[name].second_g(job.power_w_on[name]) * job.seconds_on[name] for name in names}
        whole: _Take | None = None
        parts: list[_Take] = []
        for name in sorted(names, key=lambda name: (least[name], name)):
            if whole and whole.cost <= least[name] * left:
                break
            take = self._take(job, name, left, self._pools[name].by_cost, until, used)
            if take and take.share >= left - _EPS:
                whole = take if whole is None or take.cost < whole.cost else whole
            elif take and whole is None:
                parts.append(take)
        if whole:
            return self._commit(job, whole, left, until, used)
        placed = 0.0
        for part in sorted(parts, key=lambda take: (take.cost / take.share, take.pool)):
            order = self._pools[part.pool].by_cost
            take = self._take(job, part.pool, left - placed, order, until, used) if placed < left - _EPS else None
            placed += self._commit(job, take, left - placed, until, used) if take else 0.0
        return placed

    def _take(self, job: Job, name: str, share: float, order: _Order, until: int, used: dict[int, float]) -> _Take | None:
        """Slots before `until` in that order for this share of the job and its engine starts; None where nothing fits."""
        pool, work, startup_s = self._pools[name], job.seconds_on[name], job.startup_s_on[name]
        width, startup = job.width, 0.0
        for _ in range(4):  # more seconds may need more replicas, which need more start-up
            chosen = pool.choose(order(until), share * work + startup, width, self._lengths, used)
            needed = startup_s * self._starts(job.model_at(name), name, chosen) if startup_s > 0 else 0.0
            if needed <= startup + _EPS:
                break
            startup = needed
        held = (sum(chosen.values()) - startup) / work if work > 0 else share
        if not chosen or held <= _EPS:
            return None
        watts, intensity, wait = job.power_w_on[name] / JOULES_PER_KWH, pool.intensity, self.prices.wait_g_per_s
        cost = sum((watts * intensity[t] + pool.embodied_g_per_s + wait[t]) * s for t, s in chosen.items())
        return _Take(name, chosen, min(held, share), cost)

    def _starts(self, model: str, pool: str, chosen: dict[int, float]) -> int:
        """Engine starts that these seconds need, once begun ones are held from the first slot to the last."""
        engines, most = self._engines_of(model, pool), 0
        for t, seconds in chosen.items():
            need = engines.needed(t, seconds)
            if need > engines.ready(t) + most:
                most = max(most, need - engines.reach(t, need))
        return most

    def _engines_of(self, model: str, pool: str) -> Engines:
        found = self._engines.get((model, pool))
        if found is None:
            loaded = self._states[pool].loaded.count(model)
            found = self._engines[model, pool] = Engines(self.problem, self._pools[pool].room, loaded)
        return found

    def _commit(self, job: Job, take: _Take, left: float, until: int, used: dict[int, float]) -> float:
        """Place up to the share `left` there, in order of time, as far as engines can be ready; the share placed."""
        name, model, work = take.pool, job.model_at(take.pool), job.seconds_on[take.pool]
        engines, room = self._engines_of(model, name), self._pools[name].room.seconds
        missing_s = left * work
        for t in sorted(take.seconds):
            before = engines.busy[t]
            ready = self._make_ready(job, name, engines, t, take.seconds[t], until)
            free = ready * self._lengths[t] - engines.busy[t]
            seconds = min(missing_s, room[t], free, take.seconds[t] - (engines.busy[t] - before))
            if seconds > _EPS:
                engines.work(t, seconds)
                used[t] = used.get(t, 0.0) + seconds
                missing_s -= seconds
                self.allotments.append(allot(self.problem, job, name, t, seconds))
            self._pools[name].close(t)
        self._used[job.batch_id] = used
        return left - missing_s / work if work > 0 else left

    def _make_ready(self, job: Job, pool: str, engines: Engines, slot: int, seconds: float, until: int) -> int:
        """Hold and start replicas for so many seconds in a slot, as far as can be; how many are ready then."""
        need = engines.needed(slot, seconds)
        if need > engines.ready(slot):
            engines.keep(slot, engines.reach(slot, need))
        more = need - engines.ready(slot)
        if more > 0:
            most, spread = engines.startable(slot, job.startup_s_on[pool], until)
            more = min(more, most)
            if more > 0:
                engines.start(slot, more, spread)
                self.loads += loads(job.batch_id, job.model_at(pool), pool, more, spread)
        return engines.ready(slot)


def loads(batch_id: str, model: str, pool: str, replicas: int, spread: list[tuple[int, float]]) -> list[Load]:
    """The start of so many engines, by slot; `spread`: seconds of one of them (engines.load_share)."""
    return [
        Load(batch_id, model, pool, t, seconds * replicas, replicas if not number else 0)
        for number, (t, seconds) in enumerate(spread)
    ]


def allot(problem: Problem, job: Job, pool: str, slot: int, seconds: float) -> Allotment:
    """An allotment of that many replica-seconds; it may be used at any time within its slot."""
    requests = job.remaining_requests * seconds / job.seconds_on[pool]
    return Allotment(job.batch_id, pool, slot, problem.slots[slot].start_s, problem.slots[slot].end_s, requests, seconds)
