"""What was expected of batches when they came, beside what they took: who was late for something that was left room for?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import msgspec

from batchsched.planner import Job
from batchsched.planner.doubt import doubts, factor
from batchsched.published import Published
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.records import Completion
from batchsched.simulate.scene import Arrival, Scene
from batchsched.simulate.truth import Lines, Truth


class Foreseen:
    """Of all batches of a backtest, by their ids in the queue."""

    def __init__(self, scene: Scene, conditions: Conditions, truth: Truth) -> None:
        self._fleet, self._outages, self._truth = scene.fleet, conditions.outages, truth
        self._first: dict[str, tuple[Job, dict[str, float]]] = {}
        """As the first plan had it, and how many times the expected work its confidence leaves room for, by pool."""
        self._pools: defaultdict[str, set[str]] = defaultdict(set)
        self._stops = Counter[str]()

    def planned(self, published: Published) -> None:
        """A plan: of what is new in it, what is thought."""
        fresh = [job for job in published.problem.jobs if job.batch_id not in self._first]
        supplies = {state.name: (state.supply, float(state.replicas)) for state in published.problem.pools} if fresh else {}
        for job in fresh:
            times = {pool: factor(doubt, job.confidence) for pool, doubt in doubts(job, supplies).items()}
            self._first[job.batch_id] = job, times

    def ran(self, batch_id: str, pool: str) -> None:
        """Something of it was done there."""
        self._pools[batch_id].add(pool)

    def stopped(self, batch_id: str) -> None:
        """An engine died under it."""
        self._stops[batch_id] += 1

    def beside(self, came: Completion, batch_id: str, arrival: Arrival, lines: Lines, effort: float) -> Completion:
        """What came of a batch, with what was thought of it. `effort`: its lines, each counted by the luck of its chunk."""
        stops = self._stops[batch_id] + self._lost(arrival, came.finished_s)
        if batch_id not in self._first:
            return msgspec.structs.replace(came, stops=stops)
        job, allowed = self._first[batch_id]
        own = [pool for pool in self._pools[batch_id] & job.work_on.keys() if not self._fleet.is_spare(pool)]
        took = [(effort * self._truth.usual_s(arrival, pool, lines) / job.work_on[pool], allowed[pool]) for pool in sorted(own)]
        times, room = max(took, key=lambda one: one[0] / one[1], default=(None, None))
        return msgspec.structs.replace(came, times=times, allowed=room, stops=stops)

    def _lost(self, arrival: Arrival, finished_s: float | None) -> int:
        """Outages of pools that it might have run on meanwhile."""
        until_s = math.inf if finished_s is None else finished_s
        mine = [one for one in self._outages if one.pool in arrival.pools]
        return sum(one.start_s < until_s and one.end_s > arrival.at_s for one in mine)
