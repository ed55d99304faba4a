"""All batches at once, as a linear program over place and time; then on whole engines, as the greedy planner places work.

Greedy plans give the cleanest hours to who is due first, though another batch may have nowhere else to go: the program weighs all
of them together, but knows no engine starts. Which of the two plans weighs less is seen from case to case, so both are made.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.greedy import by_due, followed
from batchsched.planner.linear import LinearProgram
from batchsched.planner.plan import Plan
from batchsched.planner.price import Prices, price, work_s
from batchsched.planner.problem import Job, Problem
from batchsched.units import JOULES_PER_KWH

MOST_COLUMNS = 20_000
"""A program of so many takes half a second; for larger problems there is none."""
CELLS = 100
"""Places of a batch in the program, the cheapest ones."""
MOST_STEPS = 50_000
LEFT_OUT = 10.0
"""What finds no room weighs so many times as much as the dearest way to do any batch."""
_EPS = 1e-9
_EPS_S = 1e-6
Column = tuple[Job, str, int]
"""A job, its name for a configuration, and a slot."""


def joint(problem: Problem, due: dict[str, float]) -> Plan | None:
    """The plan, in the problem's slots; None where there is nothing to divide, or too much. `due`: from due.due_times."""
    prices = price(problem)
    jobs = [job for job in by_due(problem.jobs, due) if job.remaining_requests > 0 and work_s(job) > 0]
    if len(jobs) < 2 or len(jobs) * CELLS > MOST_COLUMNS:
        return None
    columns, grams = _columns(problem, prices, jobs, due)
    work: dict[tuple[str, str], dict[int, float]] = {}
    for (job, key, t), share in zip(columns, _divided(problem, jobs, columns, grams).tolist(), strict=True):
        if share > _EPS:
            work.setdefault((job.batch_id, key), {})[t] = share * job.seconds_on[key]
    return followed(problem, prices, due, jobs, work) if work else None


def _columns(problem: Problem, prices: Prices, jobs: list[Job], due: dict[str, float]) -> tuple[list[Column], Floats]:
    """Of each job the cheapest places that end by its due time; what all of the job would weigh there."""
    ends = [slot.end_s for slot in problem.slots]
    open_ = {name: np.array(row) > _EPS for name, row in problem.capacity.items()}
    intensity = {name: np.array(row) / JOULES_PER_KWH for name, row in prices.intensity.items()}
    wait = np.array(prices.wait_g_per_s)
    columns, grams = list[Column](), list[Floats]()
    for job in jobs:
        until, keys = bisect_right(ends, due[job.batch_id] + _EPS_S), list(job.seconds_on)
        rows: list[Floats] = []
        for key in keys:
            config = job.configuration(key)
            besides = prices.besides_g(config) + job.transfer_g_per_s(key)
            second_g = job.power_w_on[key] * intensity[config.pool][:until] + besides + wait[:until]
            usable = np.logical_and.reduce([open_[name][:until] for name, _ in config.shares])
            rows.append(np.where(usable, second_g * job.seconds_on[key], np.inf))
        all_g = np.concatenate(rows)
        best = np.argsort(all_g, kind="stable")[:CELLS]
        best = best[np.isfinite(all_g[best])]
        columns += [(job, keys[n // until], n % until) for n in best.tolist()]
        grams.append(all_g[best])
    return columns, np.concatenate(grams)


def _divided(problem: Problem, jobs: list[Job], columns: list[Column], grams: Floats) -> Floats:
    """The share of its job in each column."""
    number = {job.batch_id: n for n, job in enumerate(jobs)}
    most = np.array([min(1.0, job.width * problem.slots[t].length_s / job.seconds_on[key]) for job, key, t in columns])
    program = LinearProgram()
    program.limit.most = MOST_STEPS
    ids = program.add_columns(
        np.append(grams / max(float(grams.max(initial=0.0)), _EPS), np.full(len(jobs), LEFT_OUT)),
        np.zeros(len(columns) + len(jobs)),
        np.append(most, np.ones(len(jobs))),
    )
    whole = program.add_rows(np.ones(len(jobs)), np.ones(len(jobs)))
    of_job = np.array([number[job.batch_id] for job, _, _ in columns], np.int64)
    room_h, (rows, of), hours = _rooms(problem, columns)
    rooms = program.add_rows(np.zeros(len(room_h)), room_h)
    program.add_entries(
        np.concatenate([whole[of_job], whole, rooms[rows]]),
        np.concatenate([ids[: len(columns)], ids[len(columns) :], ids[of]]),
        np.concatenate([np.ones(len(columns) + len(jobs)), hours]),
    )
    return program.solve().x[: len(columns)]


def _rooms(problem: Problem, columns: list[Column]) -> tuple[Floats, tuple[Ints, Ints], Floats]:
    """Hours of replicas that there are in each pool and slot that is used; which column takes of which, and how many."""
    place: dict[tuple[str, int], int] = {}
    room: list[float] = []
    rows: list[int] = []
    of: list[int] = []
    values: list[float] = []
    for n, (job, key, t) in enumerate(columns):
        for name, taken in job.configuration(key).shares:
            if (name, t) not in place:
                place[name, t] = len(room)
                room.append(problem.capacity[name][t] * problem.slots[t].length_s / 3600)
            rows.append(place[name, t])
            of.append(n)
            values.append(job.seconds_on[key] * taken / 3600)
    return np.array(room), (np.array(rows, np.int64), np.array(of, np.int64)), np.array(values)
