"""How much one plan has elsewhere than the one before."""

from __future__ import annotations

from collections.abc import Collection

from batchsched.planner import Plan

Cells = dict[tuple[str, str, int], float]


def cells(plan: Plan, made_s: float, since_s: float, batches: Collection[str]) -> Cells:
    """Replica-seconds of work by batch, pool and hour of the simulation, of these batches, from an instant on."""
    found: Cells = {}
    for a in plan.allotments:
        at_s = made_s + (a.start_s + a.end_s) / 2
        if at_s >= since_s and a.batch_id in batches:
            cell = (a.batch_id, a.pool, int(at_s // 3600))
            found[cell] = found.get(cell, 0.0) + a.seconds
    return found
