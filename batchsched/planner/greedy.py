"""A plan without a solver: earliest deadline first, each job into the cheapest slots that still keep its deadline.

One configuration that holds all of a job is preferred, since each further one costs an engine start. Where none does, they are
filled one after another, the cheapest first; what does not fit by the due time goes into the first free slots after it, the
fastest first. Where work is late in the end, the same is tried without a look at the cost, and by weight; the best of these
plans counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.engines import Engines, Room, hold_room
from batchsched.planner.holding import Thrift, stays
from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.price import Prices, late_marks, price
from batchsched.planner.problem import Configuration, Job, Problem
from batchsched.units import JOULES_PER_KWH

_EPS = 1e-9
_EPS_S = 1e-6
_DUST = 1e-6
"""A share of a job smaller than this is rounding, as cost.assess has it."""
_Order = Callable[[int], Iterable[int]]


class _Take(msgspec.Struct):
    """Seconds of one configuration to take from slots for one job, start-up included; the share of the job that they hold."""

    key: str
    seconds: dict[int, float]
    share: float
    cost: float


def greedy(problem: Problem, due: dict[str, float]) -> Plan:
    """A plan that respects capacity and deadlines as far as it finds room; never raises. `due`: from due.due_times."""
    prices = price(problem)
    order = by_due(problem.jobs, due)
    best = _filled(problem, prices, due, order)
    if best.late or best.later:
        others = [_filled(problem, prices, due, order, hurry=True)]
        if len({job.weight for job in order}) > 1:
            others.append(_filled(problem, prices, due, sorted(order, key=lambda j: -j.weight)))
        best = min([best, *others], key=lambda plan: plan.objective)
    return msgspec.structs.replace(best, solver="greedy", status="feasible")


def by_due(jobs: Iterable[Job], due: Mapping[str, float]) -> list[Job]:
    """In the order in which they are placed: what is due first, and of that the heaviest."""
    return sorted(jobs, key=lambda j: (due[j.batch_id], j.deadline_s, -j.weight, j.batch_id))


def followed(
    problem: Problem, prices: Prices, due: dict[str, float], order: list[Job], work: Mapping[tuple[str, str], dict[int, float]]
) -> Plan:
    """So much work (seconds by slot, of a job on one of its keys) as far as it fits; engines start where that needs them, and the
    rest goes where it is cheapest."""
    filler = Filler(problem, prices)
    left = {job.batch_id: 1.0 for job in order}
    for job in order:
        for key in job.seconds_on:
            if (seconds := work.get((job.batch_id, key))) and left[job.batch_id] > _DUST:
                left[job.batch_id] -= filler.follow(job, key, dict(seconds), left[job.batch_id])
    for job in order:
        if left[job.batch_id] > _DUST:
            filler.place(job, due[job.batch_id], left[job.batch_id])
    filler.spare()
    return assess(problem, prices, due, filler.allotments, filler.loads)


def _filled(problem: Problem, prices: Prices, due: dict[str, float], order: list[Job], hurry: bool = False) -> Plan:
    filler = Filler(problem, prices)
    for job in order:
        filler.place(job, due[job.batch_id], hurry=hurry)
    filler.spare()
    return assess(problem, prices, due, filler.allotments, filler.loads)


class _Pool:
    """A pool while it is filled. `cheap`: its slots with room left that end by the latest due time so far, cheapest first."""

    def __init__(self, intensity: list[float], room: Room) -> None:
        self.intensity = intensity
        self.room = room
        self.cheap: list[tuple[float, int]] = []
        self._entered = 0

    def enter(self, slots: int) -> None:
        """Slots up to there come into consideration."""
        while self._entered < slots:
            if self.room.seconds[self._entered] > _EPS:
                insort(self.cheap, (self.intensity[self._entered], self._entered))
            self._entered += 1

    def second_g(self, power_w: float) -> float:
        """Grams of a second in the cheapest slot; infinite where there is none."""
        return power_w / JOULES_PER_KWH * self.cheap[0][0] if self.cheap else float("inf")

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
        self._rooms = {pool.name: Room(problem, pool.capacity, hold_room(pool)) for pool in problem.pools}
        self._rooms |= {link.name: Room(problem, link.capacity) for link in problem.links}
        self._pools = {pool.name: _Pool(prices.intensity[pool.name], self._rooms[pool.name]) for pool in problem.pools}
        self._engines: dict[str, Engines] = {}
        self._used: dict[str, dict[int, float]] = {}

    def resume(self, allotments: list[Allotment], loads: list[Load]) -> None:
        """Start from what another solver has placed."""
        jobs = {job.batch_id: job for job in self.problem.jobs}
        self.allotments += allotments
        self.loads += loads
        for a in allotments:
            self.engines_of(jobs[a.batch_id].configuration(a.key)).work(a.slot_index, a.seconds)
            used = self._used.setdefault(a.batch_id, {})
            used[a.slot_index] = used.get(a.slot_index, 0.0) + a.seconds
        for load in loads:
            job = jobs[load.batch_id]
            engines = self.engines_of(job.configuration(job.key_of(load.config)))
            engines.work(load.slot_index, load.seconds)
            engines.starts[load.slot_index] += load.starts
        for engines in self._engines.values():
            engines.settle()

    def place(self, job: Job, due_s: float, left: float = 1.0, hurry: bool = False) -> None:
        """Give a job, or the share `left` of it, its slots, as far as there is room. `hurry`: whatever it costs."""
        if not job.seconds_on or job.remaining_requests <= 0:
            return
        used = self._used.get(job.batch_id, {})
        fastest = sorted(job.seconds_on, key=lambda key: (job.seconds_on[key], key))
        if not hurry:
            left -= self._cheaply(job, left, self._until(due_s), used)
        if left <= _EPS:
            return
        for limit in (due_s, job.deadline_s, *late_marks(self.problem, job)):
            until = self._until(limit)
            for key in fastest:
                take = self._take(job, key, left, self._pool(job, key).by_time, until, used)
                left -= self._commit(job, take, left, until, used) if take else 0.0
                if left <= _EPS:
                    return

    def spare(self) -> None:
        """Start engines again, once all is placed, where keeping them ready until their next use weighs more."""
        for stay in stays(self.problem, self.prices, self.allotments, self.loads):
            for slot, replicas in Thrift(stay, self._engines[stay.config.name]).restarts():
                self.loads += loads(stay.next_user(slot), stay.config, replicas, [(slot, stay.startup_s)])

    def free(self, job: Job, key: str, slot: int) -> float:
        """Seconds that a job could work there with no further engine start."""
        engines, length_s = self.engines_of(job.configuration(key)), self._lengths[slot]
        ready_s = engines.ready(slot) * length_s - engines.busy[slot]
        return max(0.0, min(engines.room[slot], ready_s, self.unused_s(job, slot)))

    def unused_s(self, job: Job, slot: int) -> float:
        """Seconds that a job, as wide as it is, does not work in a slot."""
        return job.width * self._lengths[slot] - self._used.get(job.batch_id, {}).get(slot, 0.0)

    def take(self, job: Job, key: str, slot: int, seconds: float) -> None:
        """So many of these are used; below 0: no longer."""
        self.engines_of(job.configuration(key)).work(slot, seconds)
        used = self._used.setdefault(job.batch_id, {})
        used[slot] = used.get(slot, 0.0) + seconds

    def best(self, job: Job, due_s: float) -> str:
        """The configuration that holds all of a job before an instant for the least cost; where none does, that holds most."""
        until = self._until(due_s)
        takes: list[_Take] = []
        for key in job.seconds_on:
            pool = self._pool(job, key)
            pool.enter(until)
            if take := self._take(job, key, 1.0, pool.by_cost, until, {}):
                takes.append(take)
        whole = [take for take in takes if take.share >= 1.0 - _EPS]
        if whole:
            return min(whole, key=lambda take: (take.cost, take.key)).key
        share = {take.key: take.share for take in takes}
        return min(job.seconds_on, key=lambda key: (-share.get(key, 0.0), job.seconds_on[key], key))

    def follow(self, job: Job, key: str, seconds: dict[int, float], left: float) -> float:
        """Put up to the share `left` where another plan has it (seconds by slot, engine starts included); the share placed."""
        work, used = job.seconds_on[key], self._used.get(job.batch_id, {})
        share = min(left, sum(seconds.values()) / work) if work > 0 else left
        return self._commit(job, _Take(key, seconds, share, 0.0), share, len(self._lengths), used)

    def _until(self, at_s: float) -> int:
        """How many slots end by then."""
        return bisect_right(self._ends, at_s + _EPS_S)

    def _pool(self, job: Job, key: str) -> _Pool:
        return self._pools[job.configuration(key).pool]

    def _cheaply(self, job: Job, left: float, until: int, used: dict[int, float]) -> float:
        """Into what holds it all for the least cost, or into the cheapest ones one after another; the share placed."""
        least: dict[str, float] = {}
        for key, seconds in job.seconds_on.items():
            config = job.configuration(key)
            pool = self._pools[config.pool]
            pool.enter(until)
            besides = self.prices.besides_g(config) + job.transfer_g_per_s(key)
            least[key] = (pool.second_g(job.power_w_on[key]) + besides) * seconds
        whole: _Take | None = None
        parts: list[_Take] = []
        for key in sorted(least, key=lambda key: (least[key], key)):
            if whole and whole.cost <= least[key] * left:
                break
            take = self._take(job, key, left, self._pool(job, key).by_cost, until, used)
            if take and take.share >= left - _EPS:
                whole = take if whole is None or take.cost < whole.cost else whole
            elif take and whole is None:
                parts.append(take)
        if whole:
            return self._commit(job, whole, left, until, used)
        placed = 0.0
        for part in sorted(parts, key=lambda take: (take.cost / take.share, take.key)):
            order = self._pool(job, part.key).by_cost
            take = self._take(job, part.key, left - placed, order, until, used) if placed < left - _EPS else None
            placed += self._commit(job, take, left - placed, until, used) if take else 0.0
        return placed

    def _take(self, job: Job, key: str, share: float, order: _Order, until: int, used: dict[int, float]) -> _Take | None:
        """Slots before `until` in that order for this share of the job and its engine starts; None where nothing fits."""
        config, work, startup_s = job.configuration(key), job.seconds_on[key], job.startup_s_on[key]
        engines, startup, starts = self.engines_of(config), 0.0, 0
        chosen: dict[int, float] = {}
        patience_s = _patience_s(job, key)
        for _ in range(4):  # more seconds may need more replicas, which need more start-up
            chosen = self._choose(engines, order(until), share * work + startup, job.width, used)
            starts = self._starts(engines, chosen, patience_s) if startup_s > 0 else 0
            needed = startup_s * starts
            if needed <= startup + _EPS:
                break
            startup = needed
        held = (sum(chosen.values()) - startup) / work if work > 0 else share
        if not chosen or held <= _EPS:
            return None
        watts, intensity = job.power_w_on[key] / JOULES_PER_KWH, self._pools[config.pool].intensity
        besides, wait = self.prices.besides_g(config) + job.transfer_g_per_s(key), self.prices.wait_g_per_s
        cost = starts * job.load_g_on.get(key, 0.0) + sum(
            (watts * intensity[t] + besides + wait[t]) * s for t, s in chosen.items()
        )
        return _Take(key, chosen, min(held, share), cost)

    def _choose(
        self, engines: Engines, order: Iterable[int], seconds: float, width: int, used: dict[int, float]
    ) -> dict[int, float]:
        """Seconds of slots in that order."""
        chosen: dict[int, float] = {}
        room, lengths = engines.room, self._lengths
        for t in order:
            take = min(seconds, room[t], width * lengths[t] - used.get(t, 0.0))
            if take > _EPS:
                chosen[t] = take
                seconds -= take
                if seconds <= _EPS:
                    break
        return chosen

    def _starts(self, engines: Engines, chosen: dict[int, float], patience_s: float) -> int:
        """Engine starts that these seconds need, once begun ones are held as long as there is patience for it."""
        starts = mine = 0
        until_s = 0.0
        for t in sorted(chosen):
            need = engines.needed(t, chosen[t])
            if self.problem.slots[t].start_s - until_s > patience_s:
                mine = 0
            if need > max(mine, engines.ready(t)):
                starts += need - max(mine, engines.reach(t, need, patience_s))
            mine, until_s = need, self._ends[t]
        return starts

    def engines_of(self, config: Configuration) -> Engines:
        """Its replicas."""
        found = self._engines.get(config.name)
        if found is None:
            shares = [(self._rooms[name], taken) for name, taken in config.shares]
            found = self._engines[config.name] = Engines(self.problem, shares, self.problem.ready(config))
        return found

    def _commit(self, job: Job, take: _Take, left: float, until: int, used: dict[int, float]) -> float:
        """Place up to the share `left` there, in order of time, as far as engines can be ready; the share placed."""
        config, work = job.configuration(take.key), job.seconds_on[take.key]
        engines, pool = self.engines_of(config), self._pools[config.pool]
        missing_s = left * work
        for t in sorted(take.seconds):
            before = engines.busy[t]
            ready = self._make_ready(job, take.key, engines, t, take.seconds[t], until)
            free = ready * self._lengths[t] - engines.busy[t]
            seconds = min(missing_s, engines.room[t], free, take.seconds[t] - (engines.busy[t] - before))
            if seconds > _EPS:
                engines.work(t, seconds)
                used[t] = used.get(t, 0.0) + seconds
                missing_s -= seconds
                self.allotments.append(allot(self.problem, job, take.key, t, seconds))
            pool.close(t)
        self._used[job.batch_id] = used
        return left - missing_s / work if work > 0 else left

    def _make_ready(self, job: Job, key: str, engines: Engines, slot: int, seconds: float, until: int) -> int:
        """Hold and start replicas for so many seconds in a slot, as far as can be; how many are ready then."""
        need = engines.needed(slot, seconds)
        if need > engines.ready(slot):
            engines.keep(slot, engines.reach(slot, need, _patience_s(job, key)))
        more = need - engines.ready(slot)
        if more > 0:
            most, spread = engines.startable(slot, job.startup_s_on[key], until)
            more = min(more, most)
            if more > 0:
                engines.start(slot, more, spread)
                self.loads += loads(job.batch_id, job.configuration(key), more, spread)
        return engines.ready(slot)


def _patience_s(job: Job, key: str) -> float:
    """For how long waiting weighs less than another start."""
    idle_w = job.idle_w(key)
    return job.startup_s_on[key] * job.power_w_on[key] / idle_w if idle_w > 0 else math.inf


def loads(batch_id: str, config: Configuration, replicas: int, spread: list[tuple[int, float]]) -> list[Load]:
    """The start of so many engines, by slot; `spread`: seconds of one of them (engines.load_share)."""
    return [
        Load(batch_id, config.model, config.pool, t, seconds * replicas, config.name, replicas if not number else 0)
        for number, (t, seconds) in enumerate(spread)
    ]


def allot(problem: Problem, job: Job, key: str, slot: int, seconds: float) -> Allotment:
    """An allotment of that many replica-seconds; it may be used at any time within its slot."""
    requests, pool = job.remaining_requests * seconds / job.seconds_on[key], job.configuration(key).pool
    start_s, end_s = problem.slots[slot].start_s, problem.slots[slot].end_s
    return Allotment(job.batch_id, pool, slot, start_s, end_s, requests, seconds, "" if key == pool else key)
