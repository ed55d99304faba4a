"""What a simulation came to."""

from __future__ import annotations

import math

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
    late_s: float = 0.0
    """Of all missed batches together."""
    waited_s: float = 0.0
    """From coming to done, of all batches together."""
    engine_starts: int = 0
    wasted_starts: int = 0
    """Of those, engines that were stopped without any work."""
    replans: int = 0
    planned_s: float = 0.0
    """Replica-seconds that plans had for hours ahead, as the next plan found them."""
    moved_s: float = 0.0
    """Of those, what the next plan no longer had there."""
    hurried_s: float = 0.0
    """Replica-seconds that the latest safe start took, whatever the plan was."""
    embodied_g: float = 0.0
    """Of making the hardware, by the time that it was used, where plans weigh that; not in `grams`."""
    planning_cpu_s: float = 0.0
    work: list[Work] = []

    def done(self, batch_id: str, waited_s: float, late_s: float, grace_s: float = GRACE_S) -> None:
        """A batch is finished, so long after it came, and after its deadline (below 0: before it)."""
        self.waited_s += waited_s
        if late_s > grace_s:
            self.late_s += late_s
            if batch_id not in self.missed:
                self.missed.append(batch_id)

    def replanned(self, stood: Cells, stands: Cells) -> None:
        """A plan follows another: replica-seconds ahead as the one before had them, and as this one has them."""
        self.planned_s += math.fsum(stood.values())
        self.moved_s += math.fsum(max(0.0, seconds - stands.get(cell, 0.0)) for cell, seconds in stood.items())

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
        """The figures of a row of a table; everything per batch is a mean."""
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
            "wait_h": round(self.waited_s / 3600 / count, 2),
            "engine_starts": self.engine_starts,
            "churn": round(self.churn, 4),
            "hurried_h": round(self.hurried_s / 3600, 1),
            "replans": self.replans,
        }


def captured(run_now: Outcome, policy: Outcome, perfect: Outcome) -> float:
    """The share of the saving of perfect foresight over running at once; NaN where there is none to have."""
    possible = run_now.grams - perfect.grams
    return (run_now.grams - policy.grams) / possible if possible > 0 else math.nan
