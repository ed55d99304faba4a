"""The settings of the planner."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Planner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How plans are made."""

    slot_s: Annotated[float, Meta(gt=0, description="Length of a planning step in the fine part of the horizon")] = 900.0
    long_slot_s: Annotated[float, Meta(gt=0, description="Length of a planning step after that")] = 3600.0
    fine_h: Annotated[float, Meta(gt=0, description="Hours of the fine part")] = 24.0
    horizon_h: Annotated[float, Meta(gt=0, le=168, description="Hours that a plan looks ahead")] = 96.0
    replan_s: Annotated[float, Meta(gt=0, description="Plan again at least this often")] = 300.0
    solve_s: Annotated[float, Meta(gt=0, description="Work of the solver, in about seconds of an idle core")] = 2.0
    memory_mb: Annotated[int, Meta(ge=0, description="Most memory of the solver's process; 0: solve within the server")] = 2048
    confidence: Annotated[
        float, Meta(ge=0.5, lt=1, description="Asked probability of meeting a deadline, where a batch names none")
    ] = 0.99
    risk: Annotated[float, Meta(ge=0, le=1, description="How much bad futures weigh in plans, beside the mean of all")] = 0.0
    risk_measure: Annotated[
        Literal["mean", "quantile", "cvar"],
        Meta(description="What of a plan's grams is to be low there: a quantile, or the mean of what lies beyond it (`cvar`)"),
    ] = "cvar"
    risk_level: Annotated[float, Meta(gt=0, lt=1, description="Which quantile")] = 0.9
    failures_per_replica_h: Annotated[
        float,
        Meta(ge=0, description="How often a replica fails, until its pool's workers have shown it; 0: failures do not count"),
    ] = 0.001
    repair_s: Annotated[float, Meta(ge=0, description="How long a failed replica is away")] = 900.0
    grams_per_currency: Annotated[
        float, Meta(ge=0, description="Grams of CO2e that a unit of money weighs in plans; 0: they go by carbon alone")
    ] = 0.0
    grams_per_kwh: Annotated[
        float, Meta(ge=0, description="Grams of CO2e that a kilowatt-hour weighs in plans on top of its carbon, to save energy")
    ] = 0.0
    churn: Annotated[
        float, Meta(ge=0, lt=1, description="A new plan replaces the last one where it saves more than this share of its cost")
    ] = 0.0
    min_run_s: Annotated[
        float,
        Meta(
            ge=0, description="Plans avoid engine starts for less time than this, where the work fits on engines that run anyway"
        ),
    ] = 0.0
    keep_plans_days: Annotated[float, Meta(gt=0, description="Plans are kept for so long, to be looked at again")] = 14.0
    solver: Annotated[Literal["cp-sat", "greedy"], Meta(description="`cp-sat`, or `greedy` to do without a solver")] = "cp-sat"
