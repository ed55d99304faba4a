"""What online users leave of their servers, by hour of the week: expected, and how sure that is. Pure.

An hour's expectation lies between what was seen in it, what was seen at that time of other days, what was seen of the pool at
all, and a prior, each as far as there is evidence. From cold the prior is cautious, a tenth of what a server alone would do,
since what is promised to a deadline must be there; what is seen replaces it within hours, and tells weekdays apart within weeks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from statistics import NormalDist

import msgspec

HOURS = 168
"""Of a week; 0 is Monday 00:00 UTC."""
PRIOR_SHARE = 0.1
"""Of what a server alone would do: our assumption, until something was seen."""
PRIOR_SIGMA = 0.8
"""How wrong that may be: the standard deviation of its logarithm, our assumption."""
PRIOR_SAMPLES = 8.0
"""Quarters of an hour that weigh as much as what was thought before."""
SLOT_SIGMA = 0.5
"""Of one quarter around its hour's expectation before any was seen: our assumption."""
SIGMA_FLOOR = 0.1
"""Traffic grows and shrinks by as much from week to week however well it is known."""
LEAST = 0.05
"""Of the expectation, what a quarter with less counts as in logarithms: none at all would have none."""
MOST_SIGMA = 1.5
_QUARTER = timedelta(minutes=15)
FOLLOWS, KEEPS = 0.85, 0.8
"""Of what the latest quarter was off its hour's expectation: how much of that is expected of the next, and how much of this stays
from hour to hour. Of five services (ServeGen, Azure 2024; a week each, held against the weeks before) the correlation was 0.7 to
0.9 after a quarter of an hour, 0.4 to 0.9 after an hour, 0.3 to 0.8 after two and 0.3 to 0.8 after four."""


class Spare(msgspec.Struct, frozen=True):
    """Of one server of a pool. Spreads are standard deviations of logarithms, `sigma` of an error that lasts, `slot_sigma` of
    quarters of an hour, each for itself."""

    tokens_per_s: list[float]
    """Expected offline tokens a second, by hour of the week."""
    sigma: float
    slot_sigma: float
    samples: int
    """Quarters of an hour that were seen."""
    ratios: list[float]
    """Quarters over their hour's expectation, in order, what stands for the prior included."""
    off_tokens_per_s: float = 0.0
    """By how much the latest quarter was above its hour's expectation."""
    latest_at: datetime | None = None
    """When that one ended."""

    def expected(self, hour: int, at: datetime) -> float:
        """Offline tokens a second at an instant, which lies in that hour of the week: as ever, and more or less where the latest
        quarter was off."""
        if self.latest_at is None or at <= self.latest_at - _QUARTER:
            return self.tokens_per_s[hour]
        since_h = max(0.0, (at - self.latest_at) / timedelta(hours=1))
        stays: float = FOLLOWS * KEEPS**since_h
        return max(0.0, self.tokens_per_s[hour] + stays * self.off_tokens_per_s)

    def quantile(self, hour: int, probability: float) -> float:
        """Offline tokens a second that a quarter of that hour stays below with that probability, as ever."""
        place = probability * (len(self.ratios) - 1)
        low, high = self.ratios[math.floor(place)], self.ratios[math.ceil(place)]
        return self.tokens_per_s[hour] * (low + (place - math.floor(place)) * (high - low))


class Latest(msgspec.Struct, frozen=True):
    """What was seen in the latest quarter: tokens a second of one server."""

    hour: int
    """Of the week."""
    tokens_per_s: float
    ended_at: datetime


def learn(seen: Iterable[tuple[int, Sequence[float]]], alone_tokens_per_s: float, latest: Latest | None = None) -> Spare:
    """From samples by hour of the week, in tokens a second of one server, as often as they come (servers, hours); from what
    a server does that is ours alone; and from the latest of the samples, where that is known."""
    by_hour: list[list[float]] = [[] for _ in range(HOURS)]
    for hour, samples in seen:
        by_hour[hour] += samples
    everything = [sample for samples in by_hour for sample in samples]
    overall = _shrunk(everything, PRIOR_SHARE * alone_tokens_per_s)
    of_day = [_shrunk([s for day in range(7) for s in by_hour[day * 24 + clock]], overall) for clock in range(24)]
    expected = [_shrunk(by_hour[hour], of_day[hour % 24]) for hour in range(HOURS)]
    ratios = [sample / expected[hour] for hour in range(HOURS) for sample in by_hour[hour] if expected[hour] > 0]
    trust = PRIOR_SAMPLES / (PRIOR_SAMPLES + len(everything))
    return Spare(
        tokens_per_s=expected,
        sigma=math.hypot(PRIOR_SIGMA * math.sqrt(trust), SIGMA_FLOOR),
        slot_sigma=_slot_sigma(ratios),
        samples=len(everything),
        ratios=sorted(ratios + _prior_ratios()),
        off_tokens_per_s=latest.tokens_per_s - expected[latest.hour] if latest else 0.0,
        latest_at=latest.ended_at if latest else None,
    )


def _shrunk(samples: Sequence[float], before: float) -> float:
    return (PRIOR_SAMPLES * before + math.fsum(samples)) / (PRIOR_SAMPLES + len(samples))


def _slot_sigma(ratios: Sequence[float]) -> float:
    squares = PRIOR_SAMPLES * SLOT_SIGMA**2 + math.fsum(math.log(max(ratio, LEAST)) ** 2 for ratio in ratios)
    return min(MOST_SIGMA, math.sqrt(squares / (PRIOR_SAMPLES + len(ratios))))


def _prior_ratios() -> list[float]:
    """A lognormal with mean 1 by a few of its quantiles, the lasting error included."""
    sigma, count = math.hypot(PRIOR_SIGMA, SLOT_SIGMA), int(PRIOR_SAMPLES)
    return [math.exp(NormalDist().inv_cdf((n + 0.5) / count) * sigma - sigma**2 / 2) for n in range(count)]
