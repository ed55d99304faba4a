"""What `simulate --json` prints; imported where it is asked for (printed.py)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from batchsched.simulate.about import About


class Policy(msgspec.Struct, frozen=True):
    """What one way to decide came to. `saved`, `captured`: shares, null where nothing can be said; `simulated`: false for what
    was lived. Hours of waiting are a mean over batches, those of being late over the late ones."""

    policy: str
    grams: float
    embodied_g: float
    energy_kwh: float
    batches: int
    missed: int
    unfinished: int
    given_up: int
    late_h: float
    latest_h: float
    wait_h: float
    wait_p95_h: float
    engine_starts: int
    churn: float
    hurried_h: float
    replans: int
    work_g: float
    starts_g: float
    idle_g: float
    wasted_g: float
    files_g: float
    gpu_h: float
    money: float | None
    simulated: bool
    saved: float | None
    captured: float | None


class Simulated(msgspec.Struct, frozen=True):
    """`simulate`: what it rests on, and how each policy did. `drawn`: is the grid drawn from the seed?"""

    scenario: str
    days: int
    seed: int
    zones: tuple[str, ...]
    load: float
    start: datetime
    drawn: bool
    batches: int
    truth: str
    risk: float
    remarks: tuple[str, ...]
    policies: tuple[Policy, ...]


class SimulatedPast(About, frozen=True, kw_only=True):
    """`simulate --from-archive`: the same of what the configured server lived through. `forecasts`: shares by provider."""

    days: int
    seed: int
    zones: tuple[str, ...]
    drawn: bool
    truth: str
    forecasts: dict[str, float]
    risk: float
    remarks: tuple[str, ...]  # type: ignore[assignment]  # the sentences of About.remarks, and more
    policies: tuple[Policy, ...]
