"""What a plan may come to emit: futures in which intensity, joules, the making of hardware and the network come true together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from batchsched.planner.plan import Allotment, Hold, Interval, Load, Plan, key_of
from batchsched.planner.price import Prices, price
from batchsched.planner.problem import Job, Problem
from batchsched.units import JOULES_PER_KWH

COUNT = 40
"""Futures, where the intensity brings none of its own."""
DRAWS = 2000
Array = NDArray[np.float64]


class Futures:
    """Joint draws of everything that makes grams of work. Their mean is what is expected. The same problem has the same ones."""

    def __init__(self, problem: Problem, prices: Prices | None = None) -> None:
        self.problem = problem
        self.prices = prices or price(problem)
        self.count = min((len(rows) for rows in problem.scenarios.values()), default=COUNT)
        self._pools = {pool.name: p for p, pool in enumerate(problem.pools)}
        rng = np.random.default_rng(0)
        kinds = sorted({pool.kind or pool.name for pool in problem.pools})
        energy, making = ({kind: self._spread(rng) for kind in kinds} for _ in range(2))
        nominal = [self.prices.intensity[pool.name] for pool in problem.pools]
        expected = np.array(nominal, float).reshape(len(problem.pools), len(problem.slots)) / JOULES_PER_KWH
        gram = np.ones((self.count, *expected.shape))
        places = problem.places
        embodied = np.ones((self.count, len(places)))
        for p, pool in enumerate(problem.pools):
            if rows := problem.scenarios.get(pool.zone):
                known = [g is not None for g in pool.intensity_g_per_kwh]
                gram[:, p, known] = np.maximum(np.array(rows[: self.count], float)[:, known], 1e-6) + pool.energy_g_per_kwh
            gram[:, p] *= np.exp(pool.energy_sigma * energy[pool.kind or pool.name])[:, None]
            embodied[:, p] = np.exp(pool.embodied_sigma * making[pool.kind or pool.name])
        for p, link in enumerate(problem.links, len(problem.pools)):  # their hardware is their pool's
            embodied[:, p] = embodied[:, self._pools[link.pool]] if link.pool in self._pools else 1.0
        self.gram: Array = gram / gram.mean(axis=0) * expected
        """Grams a joule, PUE included: [futures, pools, slots]."""
        self._places = {place.name: p for p, place in enumerate(places)}
        making_g = np.array([self.prices.embodied_g_per_s[place.name] for place in places])
        self.embodied: Array = embodied / embodied.mean(axis=0) * making_g
        """Grams a second of a replica, or of a link's unit: [futures, pools and links]."""
        moving = np.exp(problem.transfer_sigma * self._spread(rng))
        self.transfer: Array = moving / moving.mean()
        """What moving files comes to, over what is expected: [futures]."""

    def _spread(self, rng: np.random.Generator) -> Array:
        """Standard normal errors, one a future, that lie evenly."""
        return np.array([NormalDist().inv_cdf((n + 0.5) / self.count) for n in rng.permutation(self.count)])

    @property
    def certain(self) -> bool:
        """Do all of them cost the same, whatever is done?"""
        flat = np.ptp(self.gram, axis=0).max(initial=0.0) + np.ptp(self.embodied, axis=0).max(initial=0.0)
        if any(job.transfer_g_on or job.load_g_on for job in self.problem.jobs):
            flat += np.ptp(self.transfer)
        return bool(flat <= 1e-12 * (1.0 + self.gram.max(initial=0.0)))

    def grams(self, uses: Sequence[Allotment | Load], holds: Sequence[Hold] = ()) -> Array:
        """What these come to in each future."""
        jobs = {job.batch_id: job for job in self.problem.jobs}
        joules, seconds, moved_g = np.zeros(self.gram.shape[1:]), np.zeros(len(self._places)), 0.0
        for use in uses:
            job = jobs[use.batch_id]
            key = key_of(job, use)
            joules[self._pools[use.pool], use.slot_index] += job.power_w_on[key] * use.seconds
            moved_g += _moved_g(job, key, use)
            for name, taken in job.configuration(key).shares:
                seconds[self._places[name]] += use.seconds * taken
        for hold in holds:
            joules[self._pools[hold.pool], hold.slot_index] += hold.power_w * hold.seconds
        total: Array = np.tensordot(self.gram, joules, axes=2) + self.embodied @ seconds + self.transfer * moved_g
        return total

    def interval(self, plan: Plan) -> Interval | None:
        """Of a plan in the problem's slots, with what its work may take more or less; None where an intensity is unknown."""
        unknown = {(pool.name, t) for pool in self.problem.pools for t, g in enumerate(pool.intensity_g_per_kwh) if g is None}
        if unknown and any((use.pool, use.slot_index) in unknown for use in [*plan.uses, *plan.holds]):
            return None
        jobs = {job.batch_id: job for job in self.problem.jobs}
        groups: dict[tuple[str, float], list[Allotment | Load]] = defaultdict(list)
        mine: dict[tuple[str, float], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for use in plan.uses:
            job = jobs[use.batch_id]
            key, group = key_of(job, use), (job.model, round(job.sigma, 2))
            groups[group].append(use)
            running = self.prices.running_g(job.configuration(key), job.power_w_on[key], use.slot_index)
            mine[group][job.batch_id] += running * use.seconds
        held: dict[tuple[str, float], list[Hold]] = defaultdict(list)
        for hold in plan.holds:
            held[jobs[hold.batch_id].model, round(jobs[hold.batch_id].sigma, 2)].append(hold)
        rng = np.random.default_rng(0)
        models = {model: rng.standard_normal(DRAWS) for model in sorted({model for model, _ in groups})}
        which = np.resize(rng.permutation(self.count), DRAWS)
        total, expected = np.zeros(DRAWS), 0.0
        for (model, sigma), uses in sorted(groups.items()):
            of_jobs = mine[model, sigma]
            whole = sum(of_jobs.values())
            shares = {name: part / whole for name, part in of_jobs.items()} if whole > 0 else {}
            own = math.sqrt(math.log1p(sum(share**2 * math.expm1(jobs[name].sigma_own ** 2) for name, share in shares.items())))
            off = sigma * models[model] - sigma**2 / 2 + own * rng.standard_normal(DRAWS) - own**2 / 2
            grams = self.grams(uses, held[model, sigma])
            total += grams[which] * np.exp(off)
            expected += float(grams.mean())
        low, high = np.quantile(total, [0.1, 0.9])
        return Interval(expected, float(low), float(high))


def _moved_g(job: Job, key: str, use: Allotment | Load) -> float:
    """What moving files for it is expected to come to: the model's weights before a start, the batch's own for its work."""
    return use.starts * job.load_g_on.get(key, 0.0) if isinstance(use, Load) else job.transfer_g_per_s(key) * use.seconds
