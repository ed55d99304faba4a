"""Which configurations a batch that accepts several models is planned with: Algorithm 1 prunes, with the deadline for latencies.

What it takes out can only lose: what may miss the deadline where another keeps it, and what another beats in every respect. Of
the rest the plan chooses, slot by slot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

import msgspec

from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile


class Candidate(msgspec.Struct, frozen=True):
    """A model on a pool, and what the rest of a batch takes there."""

    profile: Profile
    lengths: Lengths
    """Of all requests that were not answered; `share` of them are still to do."""
    share: float = 1.0
    replicas: int = 1
    """That can work on it at once."""
    loaded: bool = True
    scarce: bool = False
    """It takes more than replicas of its pool, of which there may be less, or not always."""
    plainly: tuple[Profile, float] | None = None
    """What serves the requests that it does not suit, and which share of all they are."""

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
        return self.share * sum(part * profile.seconds(*self._tokens) for profile, part in self._parts)

    @property
    def power_w(self) -> float:
        """Watts meanwhile."""
        if self.plainly is None or self.seconds <= 0:
            return self.profile.power_for(*self._tokens)
        return self.share * sum(part * profile.energy_j(*self._tokens) for profile, part in self._parts) / self.seconds

    @property
    def sigma(self) -> float:
        """How wrong the profile may be, as the standard deviation of log(seconds)."""
        return self.profile.sigma_for(*self._tokens)

    @property
    def start_s(self) -> float:
        """To start an engine, where there is none with the model."""
        return 0.0 if self.loaded else self.profile.startup_s

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

    def beats(self, other: Candidate) -> bool:
        """Is it no slower, no more power hungry and no later ready than another, and better in one of these?"""
        mine, its = self._figures, other._figures
        return mine != its and all(a <= b for a, b in zip(mine, its, strict=True))

    @property
    def _parts(self) -> list[tuple[Profile, float]]:
        """What serves its requests, and which share of them."""
        return [(self.profile, 1.0 - self.plainly[1]), self.plainly] if self.plainly else [(self.profile, 1.0)]

    @property
    def _figures(self) -> tuple[float, float, float]:
        return self.seconds, self.seconds * self.power_w, self.start_s

    @property
    def _tokens(self) -> tuple[float, float]:
        return self.lengths.input_tokens, self.lengths.output_tokens


def pruned(candidates: Iterable[Candidate], open_s: Mapping[str, float], confidence: float) -> list[Candidate]:
    """What a batch is planned with on each pool: all that keep the deadline with that confidence and that no other beats; where
    none keeps it, the one that does most likely; where none can, the one that is expected to be done first.

    `open_s`: of each pool, until the deadline. What is scarce takes nothing out that is not: that is still there where it is not.
    """
    return [one for pool, some in _by_pool(candidates).items() for one in _left(some, open_s[pool], confidence)]


def _left(some: Sequence[Candidate], open_s: float, confidence: float) -> list[Candidate]:
    found, plain = _best(some, open_s, confidence), [one for one in some if not one.scarce]
    if not plain or len(plain) == len(some):
        return found
    found += _best(plain, open_s, confidence)
    return [one for one in some if one in found]


def _best(some: Sequence[Candidate], open_s: float, confidence: float) -> list[Candidate]:
    kept = [one for one in some if one.attainment(open_s) >= confidence]
    if not kept:
        return [min(some, key=lambda one: (-one.attainment(open_s), one.done_s, one.model))]
    return [one for one in kept if not any(other.beats(one) for other in kept)]


def _by_pool(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(one.pool, []).append(one)
    return found
