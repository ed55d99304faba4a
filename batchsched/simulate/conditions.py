"""What a simulation assumes beside its scene: how fine it is, and what executors do."""

from __future__ import annotations

import msgspec

from batchsched.simulate.making import Figures


class Outage(msgspec.Struct, frozen=True):
    """A pool that is away. Seconds count from the start of the simulation."""

    pool: str
    start_s: float
    end_s: float
    silent: bool = False
    """Its workers go on with what they hold, but nothing is heard of them, as where a link is cut; else they stop."""


class Conditions(msgspec.Struct, frozen=True):
    """Spreads are standard deviations of logarithms."""

    tick_s: float = 3600.0
    """How often new batches are taken up, progress is reported, and a plan is made where something asks for one."""
    at_once: bool = False
    """Each batch is taken up, and planned, when it comes as well: for those that are due sooner than after a few ticks."""
    slot_s: float = 3600.0
    """Length of a planning step in the fine part of the horizon."""
    fine_h: float = 24.0
    """Hours of that part."""
    chunk_s: float = 1800.0
    """How long a chunk takes on the fleet's mean replica, about."""
    chunk_share: float = 1 / 8
    """Of its batch's window, what a chunk takes at most on the slowest replica that may run it: else one of a batch that is due
    soon would take as long there as it has, where in life it takes minutes."""
    chunk_lines: int = 10
    """Lines of a chunk; each stands for as many requests as it must, with their tokens."""
    sigma_own: float = 0.065
    """How far a model's speed on one pool is off the profile, beside what is off for all of the model: profiles take 0.7 of the
    variance to be common."""
    sigma_chunk: float = 0.10
    """The same of one chunk alone."""
    sigma_watts: float = 0.05
    """Of a model on a pool."""
    sigma_start: float = 0.15
    """Of one start of an engine: our assumption."""
    error: float = 1.0
    """All work takes this many times what scene and draws say, which nobody is told."""
    failures_per_replica_h: float = 0.001
    repair_s: float = 900.0
    idle_stop_s: float = 300.0
    """Engines are stopped after so long without work, unless the plan keeps them, as at a worker."""
    attached: bool = False
    """Engines run all the time, each with the first model of its pool: others' engines, to which workers are attached."""
    warm_up_h: float = 6.0
    """So long before the start some work of each model is done, so that lengths of answers are known as in life; shifting is
    frozen meanwhile, so that it is the same for all policies."""
    warm_up_batches: int = 5
    """Of each model, then."""
    outages: tuple[Outage, ...] = ()
    lease_s: float = 4 * 3600.0
    """Modelled executors give a sign of life at each tick; only who is cut off falls silent for longer."""
    embodied: Figures = "sunk"
    """At which of the published figures plans weigh what it took to make the hardware."""


USUAL = Conditions()
