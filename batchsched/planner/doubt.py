"""How much longer than expected a job may take on a pool: its own errors, those of the pool's capacity, and replicas that fail.

Errors multiply and are lognormal; failures come at random (Poisson) and add what each takes. Capacity that is off by a factor is
work that takes that much longer, so both kinds of error are one spread. What is common to other jobs is kept apart from what is
this job's alone: the first adds up over jobs, the second pools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from batchsched.planner.problem import SURE, Job, Supply, quantile_factor

_STEPS_PER_E = 20
"""Works within 5 % share one answer."""
_RARE = 0.02
"""Failures this much rarer than the misses that are allowed change nothing."""
_HALVINGS = 7
_ROOT = math.sqrt(2.0)
_NOTHING = 1e-12
"""Failures this unlikely, and more than expected, add nothing to a sum of probabilities."""
_MANY = 100
"""More failures than this make a steady loss."""


class Doubt(msgspec.Struct, frozen=True):
    """Of one job on one pool, in shares of its expected work there. `common` and `own`: standard deviations of logarithms."""

    common: float
    own: float
    stops: float = 0.0
    """Expected failures while it runs."""
    stop: float = 0.0
    """What one takes."""

    @property
    def spread(self) -> float:
        """Both errors together."""
        return math.hypot(self.common, self.own)

    @property
    def own_share(self) -> float:
        """Standard deviation of what is its own, failures among it, as a share of the work."""
        return math.hypot(self.own, math.sqrt(self.stops) * self.stop)

    def factor(self, confidence: float) -> float:
        """How many times the expected work suffices with that probability or a little more; never less than 1."""
        if self.stops * self.stop <= 0 or self.stops < _RARE * (1.0 - confidence):
            return quantile_factor(confidence, self.spread)
        if self.stops > _MANY:
            return quantile_factor(confidence, math.hypot(self.spread, self.own_share)) + self.stops * self.stop
        low, high = quantile_factor(confidence, self.spread), self._enough(confidence)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.within(middle) >= confidence else (middle, high)
        return high

    def _enough(self, confidence: float) -> float:
        """Room for so many failures that more are rarer than the misses that are allowed, and for errors at what then is left."""
        below, term, n = 0.0, math.exp(-self.stops), 0
        while below + term <= confidence and n < 4 * _MANY:
            below += term
            n += 1
            term *= self.stops / n
        return n * self.stop + quantile_factor(min(confidence / min(1.0, below + term), 1 - 1e-12), self.spread)

    def within(self, times: float) -> float:
        """The probability that so many times the expected work suffice."""
        if times <= 0 or not math.isfinite(times):
            return float(times > 0)
        if self.stops * self.stop <= 0:
            return _within(times, self.spread)
        if self.stops > _MANY:
            steady = Doubt(self.spread, math.sqrt(self.stops) * self.stop)
            return _within(times - self.stops * self.stop, steady.spread)
        if self.spread <= 0:
            return self._within_sure(times)
        # Written out: a plan asks this some ten thousand times.
        total, term, left, spread = 0.0, math.exp(-self.stops), times, self.spread
        for n in range(1, 4 * _MANY + 1):
            total += term * 0.5 * (1.0 + math.erf((math.log(left) + spread**2 / 2) / spread / _ROOT))
            term *= self.stops / n
            left = times - n * self.stop
            if left <= 0 or (term < _NOTHING and n > self.stops):
                break
        return min(1.0, total)

    def _within_sure(self, times: float) -> float:
        """The same where nothing is uncertain but failures."""
        total, term = 0.0, math.exp(-self.stops)
        for n in range(4 * _MANY):
            if n * self.stop >= times or (term < _NOTHING and n > self.stops):
                break
            total += term * _within(times - n * self.stop, 0.0)
            term *= self.stops / (n + 1)
        return min(1.0, total)


def _within(times: float, spread: float) -> float:
    """The probability that a lognormal of mean 1 stays within so many times it."""
    if spread <= 0:
        return float(times >= 1 - 1e-9)
    return 0.5 * (1.0 + math.erf((math.log(times) + spread**2 / 2) / spread / _ROOT)) if times > 0 else 0.0


def doubts(job: Job, supplies: Mapping[str, tuple[Supply, float]], own: float = 0.0) -> dict[str, Doubt]:
    """For each place of a job. `supplies`: of each pool, with its replicas; `own`: spread of its own beside the job's."""
    own = math.hypot(job.sigma_own, own)
    return {place: _doubt(job, own, seconds, *supplies.get(place, (SURE, 1.0))) for place, seconds in job.work_on.items()}


def _doubt(job: Job, own: float, seconds: float, supply: Supply, replicas: float) -> Doubt:
    if supply == SURE or seconds <= 0:
        return Doubt(job.sigma, own)
    lasts_s = seconds / max(1.0, min(job.width, replicas))
    return _of(job.sigma, own, supply, _rounded(seconds), _rounded(lasts_s))


def _rounded(seconds: float) -> float:
    return math.exp(round(_STEPS_PER_E * math.log(seconds)) / _STEPS_PER_E)


@lru_cache(maxsize=4096)
def _of(sigma: float, sigma_own: float, supply: Supply, seconds: float, lasts_s: float) -> Doubt:
    """`lasts_s`: how long the work takes with all the replicas that it can use."""
    of_slots = supply.slot_sigma / math.sqrt(max(1.0, lasts_s / supply.steady_s))
    return Doubt(
        math.hypot(sigma, supply.sigma),
        math.hypot(sigma_own, of_slots),
        supply.failures_per_replica_h * seconds / 3600,
        supply.repair_s / seconds,
    )


@lru_cache(maxsize=65536)
def factor(doubt: Doubt, confidence: float) -> float:
    """The doubt's factor, remembered."""
    return doubt.factor(confidence)
