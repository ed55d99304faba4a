"""How `batchsched simulate` tells outcomes: beside one another, as rows of a table, and in sentences about what was not done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchsched.cli.common import grams

if TYPE_CHECKING:
    from batchsched.fleet import Fleet
    from batchsched.simulate import Grid, Outcome

RUN_NOW = "run now"
PERFECT = ("planner, perfect foresight", "greedy, perfect foresight")


def beside(found: dict[str, Outcome], one: Outcome) -> dict[str, float | None]:
    """What was saved against running now, and which share that is of what perfect foresight saves; of work that was not done to
    the end nothing is said."""
    from batchsched.simulate import captured

    now, best = found[RUN_NOW], next((found[name] for name in PERFECT if name in found), None)
    done = one.complete and now.complete
    share = captured(now, one, best) if best and done and best.complete else math.nan
    return {
        "saved": round(1 - one.grams / now.grams, 4) if now.grams and done else None,
        "captured": round(share, 4) if math.isfinite(share) else None,
    }


def used(fleet: Fleet, one: Outcome) -> dict[str, float | None]:
    """GPU hours, and their price: None where a pool that was used has none."""
    prices = {name: pool.price_per_h for name, pool in fleet.pools.items()}
    priced = all(prices.get(work.pool, 0.0) > 0 for work in one.work if work.seconds > 0)
    return {
        "gpu_h": round(one.over_pools({name: float(count) for name, count in fleet.replica_gpus.items()}), 6),
        "money": round(one.over_pools(prices), 6) if priced else None,
    }


def undone(one: Outcome, grid: Grid) -> str:
    return (
        f"'{one.policy}' had {len(one.unfinished)} batches left undone at {grid.end:%Y-%m-%d %H:%M} UTC, where what is known of "
        "the grid ends: its figures lack their work, so nothing is said of what it saved."
    )


def given_up_by(one: Outcome) -> str:
    return (
        f"'{one.policy}' had {sum(one.given_up.values()):,.0f} requests of {len(one.given_up)} batches given up, for engines "
        "died under them again and again: its figures lack their work, so nothing is said of what it saved."
    )


def row_of(found: dict[str, Outcome], one: Outcome) -> list[str]:
    shares, row = beside(found, one), one.summary()
    saved, captured = (f"{share:.1%}" if share is not None else "" for share in (shares["saved"], shares["captured"]))
    return [
        one.policy,
        grams(one.grams),
        saved,
        captured,
        f"{one.energy_kwh:,.4g}" if one.energy_kwh < 100 else f"{one.energy_kwh:,.0f}",
        f"{row['missed']} of {one.batches}",
        f"{row['wait_h']} h",
        str(one.engine_starts),
        f"{one.churn:.0%}" if one.replans else "",
    ]
