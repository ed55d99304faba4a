"""What a second of work costs: grams by the forecast, a high price for the unknown, a trace for waiting; and lateness."""

from __future__ import annotations

import msgspec

from batchsched.planner.problem import Configuration, Job, Problem
from batchsched.units import JOULES_PER_KWH

UNKNOWN_FACTOR = 1.5
"""Unknown intensity costs this times the worst that is known, so it is never preferred."""
WAIT_SHARE = 1e-4
"""Waiting for the end of the horizon costs this share of the dearest work: only ties are decided by it."""
LOSS_FACTOR = 10.0
"""Losing a second of work costs this times the dearest way to do it, engine start-up included."""
RISK_SHARE = 0.1
"""Being done after the due time but before the deadline costs this share of being late."""


class Prices(msgspec.Struct, frozen=True):
    """Prices of one problem."""

    intensity: dict[str, list[float]]
    """g/kWh x PUE for each pool and slot, unknowns filled in, with what energy weighs besides (`energy_g_per_kwh`)."""
    wait_g_per_s: list[float]
    """Added to a replica-second in each slot; grows with time."""
    loss_g_per_s: float
    """Grams that losing one second of work costs, counted where a job is fastest, at weight 1."""
    embodied_g_per_s: dict[str, float]
    """Manufacturing carbon that a second of a pool's replica, or of a link's unit, weighs, unknowns filled in; 0 where the policy
    leaves it out."""
    energy_g_per_kwh: dict[str, float] = {}
    """What a kWh of each pool's work weighs beside its carbon, times the PUE."""
    held_g_per_s: dict[str, float] = {}
    """What the same second weighs in every slot alike: manufacturing and money."""

    def running_g(self, config: Configuration, power_w: float, slot: int) -> float:
        """Grams that one replica-second at this power emits by the forecast."""
        return power_w / JOULES_PER_KWH * (self.intensity[config.pool][slot] - self.energy_g_per_kwh.get(config.pool, 0.0))

    def replica_g(self, config: Configuration, power_w: float, slot: int) -> float:
        """What one replica-second weighs, without the trace for waiting."""
        return power_w / JOULES_PER_KWH * self.intensity[config.pool][slot] + self.besides_g(config)

    def besides_g(self, config: Configuration) -> float:
        """What a replica-second weighs in every slot alike."""
        grams = 0.0
        for name, taken in config.shares:
            grams += self.held_g_per_s[name] * taken
        return grams

    def idle_g(self, config: Configuration, idle_w: float, slot: int) -> float:
        """What a second of a replica that is ready and has nothing to do weighs: its power alone, for nobody else is kept out."""
        return idle_w / JOULES_PER_KWH * self.intensity[config.pool][slot]

    def second_g(self, job: Job, key: str, slot: int) -> float:
        """What a replica-second of a job's work weighs, with the files that it moves."""
        return self.replica_g(job.configuration(key), job.power_w_on[key], slot) + job.transfer_g_per_s(key)


def price(problem: Problem) -> Prices:
    """Prices from forecasts, powers and works of the problem."""
    known = [g for pool in problem.pools for g in pool.intensity_g_per_kwh if g is not None]
    worst = max(known, default=1.0)
    unknown = max(UNKNOWN_FACTOR * worst, 1e-6)
    intensity = {
        pool.name: [
            pool.pue * ((unknown if g is None else max(0.0, g)) + pool.energy_g_per_kwh) for g in pool.intensity_g_per_kwh
        ]
        for pool in problem.pools
    }
    dearest = max((max(row, default=0.0) for row in intensity.values()), default=0.0) or 1.0
    watts = max((w for job in problem.jobs for w in job.power_w_on.values()), default=0.0) or 1.0
    embodied = _embodied(problem)
    held = {one.name: embodied[one.name] + one.price_g_per_s for one in problem.places}
    moved = max((job.transfer_g_per_s(key) for job in problem.jobs for key in job.transfer_g_on), default=0.0)
    top = watts / JOULES_PER_KWH * dearest + _most_held(problem, held) + moved
    end = problem.end_s or 1.0
    wait = [WAIT_SHARE * top * slot.end_s / end for slot in problem.slots]
    worst_use = max((_dearest_use_s(job, top) for job in problem.jobs if job.seconds_on), default=1.0)
    energy = {pool.name: pool.pue * pool.energy_g_per_kwh for pool in problem.pools}
    return Prices(intensity, wait, LOSS_FACTOR * top * (1 + WAIT_SHARE) * worst_use, embodied, energy, held)


def _embodied(problem: Problem) -> dict[str, float]:
    """As the pools say, and for those that do not know the worst that is known, and more: never preferred for it."""
    said = {one.name: one.embodied_g_per_s for one in problem.places}
    worst = max((grams or 0.0 for grams in said.values()), default=0.0)
    return {name: UNKNOWN_FACTOR * worst if grams is None else grams for name, grams in said.items()}


def _most_held(problem: Problem, held: dict[str, float]) -> float:
    """At least what a second of any replica weighs in every slot alike."""
    configs = [config for job in problem.jobs for config in job.configurations.values()]
    dearest = max((held[pool.name] for pool in problem.pools), default=0.0)
    of_pools = dearest * max((sum(config.takes.values()) for config in configs), default=1.0)
    return of_pools + max((sum(held[name] * n for name, n in config.links.items()) for config in configs), default=0.0)


def work_s(job: Job) -> float:
    """Seconds of a job's work where it is fastest: the unit in which lateness is priced. 0 for a job without a configuration."""
    return min(job.seconds_on.values(), default=0.0)


def late_marks(problem: Problem, job: Job) -> list[float]:
    """Instants after the deadline at which work still undone costs again: 1, 2, 4, ... slots later, and the horizon's end."""
    if not job.finish_late:
        return []
    ends = [slot.end_s for slot in problem.slots if slot.end_s > job.deadline_s + 1e-9]
    marks = [ends[2**k - 1] for k in range(len(ends).bit_length()) if 2**k <= len(ends)]
    return [*marks, ends[-1]] if ends and marks[-1] != ends[-1] else marks


def _dearest_use_s(job: Job, top_g: float) -> float:
    """Replica-seconds that the dearest way takes for one second of work in the fastest configuration; `top_g`: of the dearest."""
    work = max(work_s(job), 0.1)
    moved = max(job.load_g_on.values(), default=0.0) / top_g
    return max((s + job.startup_s_on[p] + moved) / work for p, s in job.seconds_on.items())
