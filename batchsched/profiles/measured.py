"""From a prior and what was measured to a profile.

Everything is done on the logarithm of the factor observed seconds / prior seconds. The prior counts as one observation with the
prior's spread; recent observations count more, longer ones count more up to a point; and what was seen of the model on another
pool moves a pool not yet seen by a part of the way, since most of a prior's error is common to a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from batchsched.profiles.profile import Profile

SIGMA_FLOOR = 0.1
"""Speed varies this much from hour to hour however well it is known."""
OWN_SPREAD = 0.25
"""Standard deviation of log(seconds) of one observation around the truth: what a chunk's mix of lengths does."""
SHARED = 0.7
"""Share of a prior's log error that is common to a model on all pools."""
HALF_LIFE_S = 7 * 86400.0
"""An observation this much older than the newest counts half: engines are updated, neighbours change."""
FULL_WEIGHT_S = 60.0
"""Shorter observations count less: ramp-up and ramp-down fill them."""


class Observation(msgspec.Struct, frozen=True):
    """What a worker saw while it was busy with one chunk."""

    model: str
    pool: str
    at: datetime
    busy_s: float
    """Replica-seconds, start-up not counted."""
    input_tokens: int
    output_tokens: int
    energy_j: float | None = None
    """Measured joules; None where nothing was measured."""
    startup_s: float | None = None
    """Where an engine was started for it."""


def update(prior: Profile, observations: Sequence[Observation], priors: dict[str, Profile] | None = None) -> Profile:
    """The profile of `prior.model` on `prior.pool` after these observations; others' models are ignored.

    `priors`: the prior of the same model on other pools, so that what was seen there can be compared. Rates are scaled together:
    a chunk gives one time for both phases.
    """
    own = [o for o in observations if o.model == prior.model and o.pool == prior.pool and _usable(o)]
    log_factor, variance = _other_pools(prior, observations, priors or {})
    if own:
        weights = _weights(own)
        mean = sum(w * _log_factor(prior, o) for w, o in zip(weights, own, strict=True)) / sum(weights)
        seen = OWN_SPREAD**2 / sum(weights)
        gain = variance / (variance + seen)
        log_factor += gain * (mean - log_factor)
        variance = variance * seen / (variance + seen)
    sigma = min(prior.sigma, max(SIGMA_FLOOR, math.sqrt(variance)))
    return msgspec.structs.replace(
        prior,
        input_tokens_per_s=prior.input_tokens_per_s * math.exp(-log_factor),
        output_tokens_per_s=prior.output_tokens_per_s * math.exp(-log_factor),
        sigma=max(sigma, min(SIGMA_FLOOR, prior.sigma)),
        power_w=_power(prior, own),
        startup_s=_startup(prior, observations),
        source="measured" if own else prior.source,
        observations=len(own),
    )


def _usable(o: Observation) -> bool:
    return o.busy_s > 0 and o.input_tokens + o.output_tokens > 0


def _log_factor(prior: Profile, o: Observation) -> float:
    return math.log(o.busy_s / prior.seconds(o.input_tokens, o.output_tokens))


def _weights(observations: Sequence[Observation]) -> list[float]:
    newest = max(o.at for o in observations)
    return [min(1.0, o.busy_s / FULL_WEIGHT_S) * 0.5 ** ((newest - o.at).total_seconds() / HALF_LIFE_S) for o in observations]


def _other_pools(prior: Profile, observations: Sequence[Observation], priors: dict[str, Profile]) -> tuple[float, float]:
    """The log factor to start from and its variance, given what the model did on other pools."""
    variance = prior.sigma**2
    seen = [o for o in observations if o.model == prior.model and o.pool != prior.pool and o.pool in priors and _usable(o)]
    if not seen or variance <= 0:
        return 0.0, variance
    weights = _weights(seen)
    mean = sum(w * _log_factor(priors[o.pool], o) for w, o in zip(weights, seen, strict=True)) / sum(weights)
    common = SHARED * variance
    # What another pool shows of the common part is blurred by that pool's own part, however often it is observed.
    gain = common / (variance + OWN_SPREAD**2 / sum(weights))
    return gain * mean, variance - gain * common


def _power(prior: Profile, own: Sequence[Observation]) -> float:
    measured = [o for o in own if o.energy_j is not None and o.energy_j > 0]
    if not measured:
        return prior.power_w
    weights = _weights(measured)
    mean = sum(w * (o.energy_j or 0.0) / o.busy_s for w, o in zip(weights, measured, strict=True)) / sum(weights)
    trust = sum(weights) / (sum(weights) + 0.25)
    return prior.power_w + trust * (mean - prior.power_w)


def _startup(prior: Profile, observations: Sequence[Observation]) -> float:
    """The slower of the mean and the latest: a start that is planned too short costs a deadline."""
    seen = [
        (o.at, o.startup_s)
        for o in observations
        if (o.model, o.pool) == (prior.model, prior.pool) and o.startup_s is not None and o.startup_s > 0
    ]
    if not seen:
        return prior.startup_s
    return max(sum(s for _, s in seen) / len(seen), max(seen)[1])
