"""Which model serves a batch on each of its pools, where it accepts several: what no planner would choose is left out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from batchsched.profiles.choose import Row, undominated
from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile


class Candidate(msgspec.Struct, frozen=True):
    """A model on a pool, and what the rest of a batch takes there."""

    profile: Profile
    site: str
    lengths: Lengths
    """Of all requests that were not answered; `share` of them are still to do."""
    share: float = 1.0
    confidence: float = 0.99
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
    def sure_s(self) -> float:
        """The same with the asked confidence; never less."""
        return max(self.seconds, self.share * self.profile.seconds_at(self.confidence, *self._tokens))

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
    def energy_j(self) -> float:
        """With its share of that start."""
        return (self.seconds + self.start_s / self.asked) * self.power_w

    @property
    def span_s(self) -> float:
        """How long it lasts with that start, with the asked confidence."""
        return self.start_s + self.sure_s / max(1, self.replicas)

    @property
    def _tokens(self) -> tuple[float, float]:
        return self.lengths.input_tokens, self.lengths.output_tokens


def one_a_pool(candidates: Iterable[Candidate], deadline_s: float) -> dict[str, Candidate]:
    """What a planner gets that knows one model a pool: of those that nothing beats, on each pool the one that takes the fewest
    joules, its share of an engine's start among them, and keeps the deadline; where none keeps it, the one that is done first."""

    def rank(one: Candidate) -> tuple[bool, float, str]:
        late = one.span_s > deadline_s
        return late, one.span_s if late else one.energy_j, one.model

    return {pool: min(unbeaten(some), key=rank) for pool, some in by_pool(candidates).items()}


def by_pool(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """Those of each pool."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(one.pool, []).append(one)
    return found


def unbeaten(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those of one pool that are worth a look. On different pools none beats another: each takes time of its own pool."""
    by_model = {one.model: one for one in candidates}
    return [by_model[model] for model in undominated({model: needs(one) for model, one in by_model.items()})]


def needs(one: Candidate) -> Row:
    """What it takes of everything whose price is not known yet.

    What is kept free for the worst case is apart, for it is seldom worked; so is a start, which has an hour of its own. The start
    of a model that other batches accept as well is unlike any other: whoever takes it may find it paid.
    """
    taken = {
        f"J at {one.site}": one.seconds * one.power_w,
        f"s of {one.pool}": one.seconds,
        f"s of {one.pool} to spare": one.sure_s - one.seconds,
    }
    if not one.loaded:
        what = f"to start {one.model if one.asked > 1 else 'an engine'} on {one.pool}"
        taken |= {f"J {what}": one.start_s * one.power_w, f"s {what}": one.start_s}
    return taken
