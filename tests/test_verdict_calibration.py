"""Verdicts are true: of batches promised a probability so many make it, over thousands of draws of everything that is uncertain.

Random problems of several jobs, pools and models. Truths are drawn (profiles' common errors, lengths, capacity that is off for
good or for a while, failures with repairs), and a fluid machine executes what the product would: the earliest deadline first, of
what may run now.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from batchsched.planner import Plan, Problem, make_plan
from batchsched.planner.latest_start import latest_safe_starts, open_pools
from batchsched.planner.problem import Supply
from batchsched.planner.room import probabilities, room
from batchsched.planner.verdict import verdict

from .planner_cases import job, pool, slots

SLOTS, SLOT_S, STEP_S = 32, 900.0, 60.0
STEPS = int(SLOTS * SLOT_S / STEP_S)
PLACES, JOBS, NOWHERE = ("a", "b"), 4, 1e15
Array = NDArray[np.float64]


def random_problem(draw: random.Random, confidence: float, load: float) -> Problem:
    """Jobs in the order of their deadlines; pool `a` is the faster one for all."""
    pools = []
    for name in PLACES:
        replicas, closed = draw.randint(1, 3), draw.randrange(SLOTS)
        supply = Supply(
            sigma=draw.choice([0.0, 0.1]),
            slot_sigma=draw.choice([0.0, 0.3]),
            failures_per_replica_h=draw.choice([0.0, 0.002, 0.05]),
            repair_s=900.0,
        )
        capacity = [0.0 if closed <= t < closed + 4 else float(replicas) for t in range(SLOTS)]
        wave = [300 + 200 * draw.random() for _ in range(SLOTS)]
        pools.append(pool(name, wave, replicas, capacity=capacity, supply=supply))
    deadlines = sorted(SLOT_S * draw.randint(8, SLOTS) for _ in range(JOBS))
    jobs = []
    for i, deadline_s in enumerate(deadlines):
        work = load * draw.uniform(0.15, 1.0) * deadline_s
        on = {name: work * (1 + 0.5 * p) for p, name in enumerate(PLACES) if name == "a" or draw.random() < 0.7}
        spreads = {"sigma": draw.choice([0.05, 0.2, 0.35]), "sigma_own": draw.choice([0.05, 0.2])}
        jobs.append(job(f"j{i}", on, deadline_s, model=f"m{draw.randrange(2)}", confidence=confidence, **spreads))
    return Problem(slots(SLOTS, SLOT_S), pools, jobs)


class Truths:
    """What comes true in each draw: rows are draws, of one problem after another."""

    def __init__(self, problems: list[Problem], each: int, seed: int) -> None:
        self.rng, self.problems, self.each = np.random.default_rng(seed), problems, each
        self.work = self._rows([[[j.seconds_on.get(p, NOWHERE) for p in PLACES] for j in one.jobs] for one in problems])
        self.deadline = self._rows([[j.deadline_s for j in one.jobs] for one in problems])
        self.left = self._factors("sigma", [[j.model for j in one.jobs] for one in problems])
        self.left *= self._factors("sigma_own", [[j.batch_id for j in one.jobs] for one in problems])
        supplies = [[p.supply for p in one.pools] for one in problems]
        lasting, passing = (self._rows([[getattr(s, n) for s in row] for row in supplies]) for n in ("sigma", "slot_sigma"))
        self.fail = self._rows([[s.failures_per_replica_h for s in row] for row in supplies]) * STEP_S / 3600
        capacity = self._rows([[p.capacity for p in one.pools] for one in problems])
        off = self._lognormal(lasting)[..., None] * self._lognormal(np.repeat(passing[..., None], SLOTS, axis=2))
        self.capacity = capacity * off

    def _rows(self, values: object) -> Array:
        return np.repeat(np.array(values, float), self.each, axis=0)

    def _lognormal(self, sigma: Array, normal: Array | None = None) -> Array:
        normal = self.rng.normal(size=sigma.shape) if normal is None else normal
        found: Array = np.exp(sigma * normal - sigma**2 / 2)
        return found

    def _factors(self, spread: str, kinds: list[list[str]]) -> Array:
        """One error for each kind."""
        sigma = self._rows([[getattr(j, spread) for j in one.jobs] for one in self.problems])
        number = self._rows([[sorted(set(row)).index(kind) for kind in row] for row in kinds]).astype(int)
        normal = np.take_along_axis(self.rng.normal(size=sigma.shape), number, axis=1)
        return self._lognormal(sigma, normal)

    def in_time(self, may_run: Array) -> NDArray[np.bool_]:
        """[draws, jobs]: is it done by its deadline? `may_run` [problems, jobs, steps]."""
        may, left = np.repeat(may_run, self.each, axis=0), self.left.copy()
        broken, repairs = np.zeros(self.fail.shape), int(900 / STEP_S)
        failed = np.zeros((STEPS, *self.fail.shape))
        for step in range(STEPS):
            broken -= failed[step - repairs] if step >= repairs else 0.0
            free = np.maximum(self.capacity[:, :, int(step * STEP_S / SLOT_S)] - broken, 0.0)
            busy = np.zeros(free.shape)
            for j in range(JOBS):
                now = (may[:, j, step] > 0) & (self.deadline[:, j] > step * STEP_S) & (left[:, j] > 0)
                for p in range(len(PLACES)):
                    work = self.work[:, j, p]
                    take = np.where(now & (work < NOWHERE), np.minimum(free[:, p], left[:, j] * work / STEP_S), 0.0)
                    free[:, p] -= take
                    busy[:, p] += take
                    left[:, j] -= take * STEP_S / work
                    left[left[:, j] < 1e-9, j] = 0.0
            failed[step] = self.rng.poisson(self.fail * busy)
            broken += failed[step]
        done: NDArray[np.bool_] = left <= 0
        return done


def as_planned(problem: Problem, plan: Plan) -> list[list[float]]:
    """When each job may run: in the slots that the plan gave it, and from its latest safe start on."""
    latest = latest_safe_starts(problem.jobs, open_pools(problem))
    found = []
    for j in problem.jobs:
        row = [float(latest[j.batch_id] <= step * STEP_S) for step in range(STEPS)]
        for a in plan.of(j.batch_id):
            for step in range(int(a.start_s / STEP_S), int(np.ceil(a.end_s / STEP_S))):
                row[step] = 1.0
        found.append(row)
    return found


def judged(count: int, confidence: float, load: float, seed: int) -> tuple[list[Problem], list[Plan], Array]:
    """Problems, plans, and the verdicts' probabilities."""
    draw = random.Random(seed)
    problems = [random_problem(draw, confidence, load) for _ in range(count)]
    made = [make_plan(problem, "greedy") for problem in problems]
    chances = [
        [verdict(problem, plan, j.batch_id).probability for j in problem.jobs]
        for problem, plan in zip(problems, made, strict=True)
    ]
    return problems, made, np.array(chances)


@pytest.mark.slow
@pytest.mark.parametrize(("confidence", "least", "most"), [(0.9, 0.88, 0.93), (0.95, 0.935, 0.97), (0.99, 0.98, 1.0)])
def test_of_batches_promised_so_many_make_it(confidence: float, least: float, most: float) -> None:
    """More than 10,000 draws. Started at the latest safe start, about so many make it; with a plan, none fewer."""
    problems, made, chances = judged(100, confidence, 0.35, seed=11)
    promised = np.repeat(chances >= confidence, 100, axis=0)
    assert promised.sum() > 10_000
    none = [Plan(plan.slots, []) for plan in made]
    kept = []
    for plans in (none, made):
        truths = Truths(problems, 100, seed=12)
        may_run = np.array([as_planned(problem, plan) for problem, plan in zip(problems, plans, strict=True)])
        kept.append(truths.in_time(may_run)[promised].mean())
    assert least <= kept[0] <= most
    assert kept[0] <= kept[1]


FEW, ALL = (0.0, 0.5, 0.95, 1.01), (0.0, 0.1, 0.5, 0.8, 0.95, 0.99, 1.01)


@pytest.mark.parametrize(
    ("count", "edges", "within"), [(30, FEW, 0.1), pytest.param(250, ALL, 0.03, marks=pytest.mark.long, id="exactly")]
)
def test_probabilities_are_frequencies(count: int, edges: tuple[float, ...], within: float) -> None:
    """Run from now on, in the order of deadlines: of what is said to hold in 70 of 100 cases about 70 do."""
    problems, _, chances = judged(count, 0.99, 0.9, seed=21)
    done = Truths(problems, 40, seed=22).in_time(np.ones((len(problems), JOBS, STEPS)))
    said = np.repeat(chances, 40, axis=0)
    for low, high in itertools.pairwise(edges):
        here = (said >= low) & (said < high)
        assert here.sum() > 2 * count
        assert done[here].mean() == pytest.approx(said[here].mean(), abs=within)


def test_one_walk_over_all_says_the_same() -> None:
    """Beside what any job alone is told; also of a job that waits for others on places that are not its own."""
    for seed in range(20):
        problem = random_problem(random.Random(seed), 0.99, 0.9)
        alone = {j.batch_id: room(problem, j, j.deadline_s).probability for j in problem.jobs}
        assert probabilities(problem, {"j0", "j1", "j2", "j3"}) == pytest.approx(alone)
        assert probabilities(problem, {"j2"}) == pytest.approx({"j2": alone["j2"]})
