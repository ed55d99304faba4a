"""Ways to decide: our planner as it is set, and simple ones by which others plan.

All have the same capacity, profiles and forecasts, and below all of them stands the same latest safe start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from batchsched.planner import Allotment, Job, Plan, Problem, make_plan
from batchsched.planner.churn import settled
from batchsched.planner.price import Prices, price
from batchsched.planner.problem import Risk

Planner = Callable[[Problem, float], Plan]
"""Of a problem, and of the seconds from the start of the simulation to the problem's origin."""
PIECE_SHARE = 1 / 8
"""Of its window: how long a batch in one piece is to take."""
_EPS = 1e-9


class Policy(msgspec.Struct, frozen=True):
    """A way to decide."""

    name: str
    planner: Callable[[], Planner]
    """Makes one, which may remember."""
    sees: Literal["issued", "perfect"] = "issued"
    lean: float = 0.0
    """So many standard deviations are added to what is expected of an hour: above 0 for caution; below 0 for the value of
    waiting, since one who waits may still choose."""
    risk: Risk = Risk()
    churn: float = 0.0
    """As `planner.churn` has it."""
    min_run_s: float = 0.0
    """As `planner.min_run_s` has it."""
    replan_s: float = 3600.0
    """How often forecasts are taken anew and everything is planned again; a new batch is planned at the next tick."""


def planned(solver: Literal["cp-sat", "greedy"], work_s: float = 2.0) -> Callable[[], Planner]:
    """Our planner, with so much work of the solver a plan."""
    return lambda: lambda problem, _now_s: settled(problem, make_plan(problem, solver, work_s=work_s))


def run_now() -> Planner:
    """As batches come, at once, on the newest hardware: what savings are counted against."""

    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = _Rows(problem)
        newness = {pool.name: pool.newness for pool in problem.pools}
        for job in sorted(problem.jobs, key=lambda job: job.batch_id):
            newest = sorted(job.seconds_on, key=lambda name: (newness[name], name), reverse=True)
            rows.fill(job, ((name, t) for t in range(len(problem.slots)) for name in newest))
        return rows.plan()

    return plan


def earliest_deadline() -> Planner:
    """Earliest deadline first, each batch into the slots that emit least for a request."""

    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = _Rows(problem)
        for job in sorted(problem.jobs, key=lambda job: (job.deadline_s, job.batch_id)):
            cells = [(name, t) for name in job.seconds_on for t in range(len(problem.slots))]
            rows.fill(job, sorted(cells, key=lambda cell: (rows.grams(job, *cell), cell[1])))
        return rows.plan()

    return plan


class InOnePiece:
    """Each batch once and for all when it comes, on one pool without a break: where `score` is least.

    `score`: of its grams, the seconds until it is done, and its grams if it began at once on the newest pool.
    """

    def __init__(self, score: Callable[[float, float, float], float]) -> None:
        self._score = score
        self._chosen: dict[str, list[tuple[str, float, float]]] = {}
        """Pool, instant and seconds of each of its slots."""

    def __call__(self, problem: Problem, now_s: float) -> Plan:
        """What was chosen before stays; what it lacks is run at once."""
        rows = _Rows(problem)
        place = {round(now_s + slot.start_s): t for t, slot in enumerate(problem.slots)}
        jobs = sorted(problem.jobs, key=lambda job: job.batch_id)
        for job in jobs:
            for pool, at_s, seconds in self._chosen.get(job.batch_id, []):
                if round(at_s) in place:
                    rows.take(job, pool, place[round(at_s)], seconds)
        for job in jobs:
            if job.batch_id not in self._chosen:
                cells = self._best(rows, job)
                self._chosen[job.batch_id] = [(p, now_s + problem.slots[t].start_s, s) for p, t, s in cells]
                for pool, t, seconds in cells:
                    rows.take(job, pool, t, seconds)
            fastest = sorted(job.seconds_on, key=lambda name: (job.seconds_on[name], name))
            rows.fill(job, ((name, t) for t in range(len(problem.slots)) for name in fastest))
        return rows.plan()

    def _best(self, rows: _Rows, job: Job) -> list[tuple[str, int, float]]:
        newest = max((rows.pools[name] for name in job.seconds_on), key=lambda pool: (pool.newness, pool.name), default=None)
        now_g = rows.grams(job, newest.name, 0) if newest else 0.0
        found: list[tuple[float, int, str, list[tuple[str, int, float]]]] = []
        for name in sorted(job.seconds_on):
            for start, cells in self._pieces(rows, job, name):
                grams = sum(rows.grams(job, name, t) * s / job.seconds_on[name] for _, t, s in cells)
                found.append((self._score(grams, rows.problem.slots[cells[-1][1]].end_s, now_g), start, name, cells))
        return min(found)[3] if found else []

    def _pieces(self, rows: _Rows, job: Job, pool: str) -> Iterable[tuple[int, list[tuple[str, int, float]]]]:
        """Every start on a pool, with what each slot then holds, as far as there is room without a break."""
        wanted = math.ceil(job.seconds_on[pool] / max(job.deadline_s * PIECE_SHARE, 1.0))
        width = max(1, min(wanted, job.width, rows.pools[pool].replicas))
        for start in range(len(rows.problem.slots)):
            left, cells = job.seconds_on[pool] + width * job.startup_s_on[pool], []
            for t in range(start, len(rows.problem.slots)):
                slot = rows.problem.slots[t]
                seconds = min(left, width * slot.length_s)
                if rows.room[pool][t] < seconds - _EPS or slot.end_s > job.deadline_s:
                    break
                cells.append((pool, t, seconds))
                left -= seconds
                if left <= _EPS:
                    yield start, cells
                    break


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("run now", run_now),
        Policy("EDF, cheapest slot", earliest_deadline),
        Policy("lowest window", lambda: InOnePiece(lambda grams, _end_s, _now_g: grams)),
        Policy("carbon-time", lambda: InOnePiece(lambda grams, end_s, now_g: (grams - now_g) / end_s)),
        Policy("greedy", planned("greedy")),
        Policy("greedy, perfect foresight", planned("greedy"), "perfect"),
        Policy("planner", planned("cp-sat")),
        Policy("planner, perfect foresight", planned("cp-sat"), "perfect"),
    )
}


class _Rows:
    """The free room of all pools while a simple policy places batches."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.pools = problem, {pool.name: pool for pool in problem.pools}
        self.room = {p.name: [c * s.length_s for c, s in zip(p.capacity, problem.slots, strict=True)] for p in problem.pools}
        self._prices: Prices = price(problem)
        self._allotments: dict[tuple[str, str, int], Allotment] = {}
        self._share: dict[str, float] = {}

    def grams(self, job: Job, pool: str, slot: int) -> float:
        """Of all its work, were it done there."""
        return self._prices.second_g(job, pool, slot) * job.seconds_on[pool]

    def fill(self, job: Job, cells: Iterable[tuple[str, int]]) -> None:
        """What of it has no place yet goes into these cells in order, as wide as it can; last into those after its deadline."""
        late: list[tuple[str, int]] = []
        used: dict[int, float] = {}
        for pool, t in cells:
            if self.problem.slots[t].end_s > job.deadline_s:
                late.append((pool, t))
            elif self._add(job, pool, t, used):
                return
        for pool, t in sorted(late, key=lambda cell: cell[1]):
            if self._add(job, pool, t, used):
                return

    def _add(self, job: Job, pool: str, t: int, used: dict[int, float]) -> bool:
        """Put there what fits; is all of it placed now?"""
        left = (1.0 - self._share.get(job.batch_id, 0.0)) * job.seconds_on[pool]
        seconds = min(left, self.room[pool][t], job.width * self.problem.slots[t].length_s - used.get(t, 0.0))
        if seconds > _EPS:
            used[t] = used.get(t, 0.0) + seconds
            self.take(job, pool, t, seconds)
        return left - seconds <= _EPS

    def take(self, job: Job, pool: str, t: int, seconds: float) -> None:
        """Give a batch so many replica-seconds of a slot, as far as they are free."""
        seconds = min(seconds, self.room[pool][t])
        if seconds <= _EPS:
            return
        self.room[pool][t] -= seconds
        self._share[job.batch_id] = self._share.get(job.batch_id, 0.0) + seconds / job.seconds_on[pool]
        key, slot = (job.batch_id, pool, t), self.problem.slots[t]
        before = self._allotments[key].seconds if key in self._allotments else 0.0
        seconds += before
        requests = job.remaining_requests * seconds / job.seconds_on[pool]
        self._allotments[key] = Allotment(job.batch_id, pool, t, slot.start_s, slot.end_s, requests, seconds)

    def plan(self) -> Plan:
        """All of it."""
        return Plan(self.problem.slots, list(self._allotments.values()), solver="simple")
