"""What a simulation came to."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from batchsched.simulate.moves import Cells

GRACE_S = 1.0
"""As far as a deadline may be passed without a miss: edges of time are rounded."""


class Work(msgspec.Struct, frozen=True):
    """What one pool did for a batch without a break, or for none (`batch_id` empty: an engine that stood ready without work)."""

    at_s: float
    pool: str
    batch_id: str
    seconds: float
    """Replica-seconds, engine start-up included."""
    starting_s: float
    """Of those, of engines that were starting."""
    energy_j: float
    grams: float
    """Operational, at the intensity that came true."""
    files: bool = False
    """What the network took for files of the batch."""


CAUSES = ("work", "starts", "idle", "wasted", "files")
"""What grams are for: requests; starts of engines that then worked; engines that stood ready; what came to nothing (starts
without any work, work that was lost); the network between sites."""


class Outcome(msgspec.Struct):
    """Grams are operational, at the intensities that came true."""

    policy: str
    batches: int = 0
    missed: list[str] = []
    """Batches that were not done by their deadline. They are finished all the same, so that all policies do the same work."""
    unfinished: list[str] = []
    """Batches that were not done when the simulation ended, a few days after the last one came."""
    given_up: dict[str, float] = {}
    """Requests that became error lines, by batch: engines died under them too often. Such a batch is done all the same."""
    late_by_s: dict[str, float] = {}
    """Of the missed batches that were finished, by how much."""
    waits_s: dict[str, float] = {}
    """From coming to done, of each batch that was finished."""
    engine_starts: int = 0
    wasted_starts: int = 0
    """Of those, engines that were stopped without any work."""
    replans: int = 0
    planned_s: float = 0.0
    """Replica-seconds that plans had for hours ahead, as the next plan found them."""
    moved_s: float = 0.0
    """Of those, what the next plan no longer had there."""
    hurried_s: float = 0.0
    """Replica-seconds of leases that were begun because batches could wait no longer, whatever the plan was."""
    embodied_g: float = 0.0
    """Of making the hardware, by the time that it was used, where plans weigh that; not in `grams`."""
    planning_cpu_s: float = 0.0
    work: list[Work] = []

    def done(self, batch_id: str, waited_s: float, late_s: float, grace_s: float = GRACE_S) -> None:
        """A batch is finished, so long after it came, and after its deadline (below 0: before it)."""
        self.waits_s[batch_id] = waited_s
        if late_s > grace_s:
            self.late_by_s[batch_id] = late_s
            if batch_id not in self.missed:
                self.missed.append(batch_id)

    def replanned(self, stood: Cells, stands: Cells) -> None:
        """A plan follows another: replica-seconds ahead as the one before had them, and as this one has them."""
        self.planned_s += math.fsum(stood.values())
        self.moved_s += math.fsum(max(0.0, seconds - stands.get(cell, 0.0)) for cell, seconds in stood.items())

    @property
    def late_s(self) -> float:
        """Of all missed batches together."""
        return math.fsum(self.late_by_s.values())

    @property
    def waited_s(self) -> float:
        """From coming to done, of all batches together."""
        return math.fsum(self.waits_s.values())

    def waited_at_s(self, share: float) -> float:
        """How long so large a share of the finished batches waited at most; 0 where there are none."""
        ordered = sorted(self.waits_s.values())
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

    def grams_by_cause(self) -> dict[str, float]:
        """By CAUSES; they add up to all grams."""
        parts: dict[str, list[float]] = {cause: [] for cause in CAUSES}
        for one in self.work:
            starting_g = one.grams * one.starting_s / one.seconds if one.seconds > 0 else 0.0
            parts["starts" if one.batch_id else "wasted"].append(starting_g)
            rest = "files" if one.files else "work" if one.batch_id else "idle"
            parts[rest].append(one.grams - starting_g)
        return {cause: math.fsum(grams) for cause, grams in parts.items()}

    def over_pools(self, each: Mapping[str, float]) -> float:
        """All hours of replicas (work, starting, standing ready), each weighed by its pool: GPU hours by the GPUs of a replica,
        money by its price. A pool that is not named weighs nothing."""
        return math.fsum(one.seconds / 3600 * each.get(one.pool, 0.0) for one in self.work)

    @property
    def complete(self) -> bool:
        """Was all of the work done?"""
        return not (self.unfinished or self.given_up)

    @property
    def grams(self) -> float:
        """Of everything."""
        return math.fsum(one.grams for one in self.work)

    @property
    def energy_kwh(self) -> float:
        """Of everything, at the socket."""
        return math.fsum(one.energy_j for one in self.work) / 3.6e6

    @property
    def missed_share(self) -> float:
        """Of the batches that were not done in time, as a fraction."""
        return len(set(self.missed) | set(self.unfinished)) / self.batches if self.batches else 0.0

    @property
    def churn(self) -> float:
        """The share of the work ahead that one plan moves elsewhere than the plan before had it."""
        return self.moved_s / self.planned_s if self.planned_s else 0.0

    def summary(self) -> dict[str, float | int | str]:
        """The figures of a row of a table; everything per batch is a mean, but for `latest_h` and `wait_p95_h`, the tails."""
        count = max(1, self.batches)
        return {
            "policy": self.policy,
            "grams": round(self.grams, 6),
            "embodied_g": round(self.embodied_g, 6),
            "energy_kwh": round(self.energy_kwh, 9),
            "batches": self.batches,
            "missed": len(set(self.missed) | set(self.unfinished)),
            "unfinished": len(self.unfinished),
            "given_up": round(math.fsum(self.given_up.values())),
            "late_h": round(self.late_s / 3600 / max(1, len(self.missed)), 2),
            "latest_h": round(max(self.late_by_s.values(), default=0.0) / 3600, 2),
            "wait_h": round(self.waited_s / 3600 / count, 2),
            "wait_p95_h": round(self.waited_at_s(0.95) / 3600, 2),
            "engine_starts": self.engine_starts,
            "churn": round(self.churn, 4),
            "hurried_h": round(self.hurried_s / 3600, 1),
            "replans": self.replans,
            **{f"{cause}_g": round(grams, 6) for cause, grams in self.grams_by_cause().items()},
        }


def captured(run_now: Outcome, policy: Outcome, perfect: Outcome) -> float:
    """The share of the saving of perfect foresight over running at once; NaN where there is none to have."""
    possible = run_now.grams - perfect.grams
    return (run_now.grams - policy.grams) / possible if possible > 0 else math.nan
