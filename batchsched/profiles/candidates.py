"""Which model serves a batch on each of its pools, where it accepts several: Algorithm 1, with the deadline for latencies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist

import msgspec

from batchsched.profiles.choose import choose, grams
from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile


class Outlook(msgspec.Struct, frozen=True):
    """What a pool has until the deadline of a batch, and what it costs there."""

    open_s: float
    g_per_kwh: float
    """Mean forecast of that time, times the PUE."""
    embodied_g_per_s: float
    """Manufacturing carbon that a second of a replica weighs in plans; 0 where the policy leaves it out."""


class Candidate(msgspec.Struct, frozen=True):
    """A model on a pool, and what the rest of a batch takes there."""

    profile: Profile
    lengths: Lengths
    """Of all requests that were not answered; `share` of them are still to do."""
    share: float = 1.0
    replicas: int = 1
    """That can work on it at once."""
    loaded: bool = True
    asked: int = 1
    """Batches that accept the model, this one among them: they share its start."""

    @property
    def model(self) -> str:
        """The model."""
        return self.profile.model

    @property
    def pool(self) -> str:
        """The pool."""
        return self.profile.pool

    @property
    def seconds(self) -> float:
        """Expected, of one replica."""
        return self.share * self.profile.seconds(*self._tokens)

    @property
    def power_w(self) -> float:
        """Watts meanwhile."""
        return self.profile.power_for(*self._tokens)

    @property
    def sigma(self) -> float:
        """How wrong the profile may be, as the standard deviation of log(seconds)."""
        return self.profile.sigma_for(*self._tokens)

    @property
    def start_s(self) -> float:
        """To start an engine, where there is none with the model."""
        return 0.0 if self.loaded else self.profile.startup_s

    @property
    def held_s(self) -> float:
        """Expected seconds of a replica, with its share of that start."""
        return self.seconds + self.start_s / self.asked

    @property
    def done_s(self) -> float:
        """How long it is expected to last, with that start."""
        return self.start_s + self.seconds / max(1, self.replicas)

    def attainment(self, within_s: float) -> float:
        """The probability that it is done in that time."""
        room, sigma = (within_s - self.start_s) * max(1, self.replicas), math.hypot(self.sigma, self.lengths.sigma)
        if room <= 0 or self.seconds <= 0:
            return float(self.seconds <= 0)
        share = room / self.seconds
        return NormalDist(-(sigma**2) / 2, sigma).cdf(math.log(share)) if sigma > 0 else float(share >= 1)

    @property
    def _tokens(self) -> tuple[float, float]:
        return self.lengths.input_tokens, self.lengths.output_tokens


def one_a_pool(candidates: Iterable[Candidate], outlook: Mapping[str, Outlook], confidence: float) -> dict[str, Candidate]:
    """The configuration of each pool that emits least of those that keep the deadline with that confidence; where none does, the
    one that keeps it most likely; where none can, the one that is expected to be done first.

    `outlook`: of each pool, until the deadline.
    """
    return {pool: _best(some, outlook[pool], confidence) for pool, some in _by_pool(candidates).items()}


def _best(some: Mapping[str, Candidate], outlook: Outlook, confidence: float) -> Candidate:
    attainment = {model: one.attainment(outlook.open_s) for model, one in some.items()}
    emitted = grams(
        {model: one.held_s * one.power_w for model, one in some.items()},
        dict.fromkeys(some, outlook.g_per_kwh),
        {model: one.held_s * outlook.embodied_g_per_s for model, one in some.items()},
    )
    first = None if any(attainment.values()) else min(some, key=lambda model: (some[model].done_s, model))
    chosen = choose(attainment, emitted, target=confidence, default=first)
    assert chosen is not None
    return some[chosen.configuration]


def _by_pool(candidates: Iterable[Candidate]) -> dict[str, dict[str, Candidate]]:
    found: dict[str, dict[str, Candidate]] = {}
    for one in candidates:
        found.setdefault(one.pool, {})[one.model] = one
    return found
