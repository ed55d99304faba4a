"""A plan of the archive made again from what it was made from, and its forecasts against what came true since."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

import msgspec

from batchsched.clock import Clock
from batchsched.errors import Conflict, ForecastUnavailable, NotFound
from batchsched.forecasts import Provider, Realised
from batchsched.forecasts.port import mean_realised
from batchsched.planner import Plan
from batchsched.planner.plan import Hold, key_of
from batchsched.published import Published
from batchsched.queue import plans
from batchsched.queue.database import Database
from batchsched.scheduler import Scheduler
from batchsched.server.planned import parents
from batchsched.solving import Solved, versions
from batchsched.units import JOULES_PER_KWH, iso

_WHOLE = 1 - 1e-6
_UNTOLD = (
    "With what it was made is not known: a version made it that did not keep that. It was made again as plans are made today."
)


class Replay:
    """Makes plans again."""

    def __init__(self, database: Database, scheduler: Scheduler, provider: Provider, clock: Clock) -> None:
        self._database = database
        self._scheduler = scheduler
        self._provider = provider
        self._clock = clock

    def answer(self, at: datetime | None, number: int | None) -> dict[str, Any]:
        """Of the plan in force at an instant, or of that number; as JSON. Raises NotFound; Conflict for one that this version
        cannot read."""
        with self._database.read() as connection:
            row = plans.latest(connection, at) if number is None else plans.get(connection, number)
        if row is None:
            which = f"that was in force at {iso(at)}" if at else f"with the number {number}"
            raise NotFound(f"No plan {which} is kept; `planner.keep_plans_days` says for how long plans are.")
        try:
            old = Published.of_row(row)
        except (msgspec.ValidationError, KeyError) as problem:
            raise Conflict(f"The plan was made by a version of batchsched that this one cannot read ({problem}).") from None
        solved = self._scheduler.again(old.problem, old.recipe)
        new = solved.plan
        differences = differing(old.plan, new)
        return {
            "id": old.id,
            "made_at": iso(old.made_at),
            "same": not differences,
            "recipe": msgspec.to_builtins(old.recipe) if old.recipe else None,
            "differences": [*differences, *_versions(old)] if differences else [],
            "objective_before": old.plan.objective,
            "objective_again": new.objective,
            "came_true": self._came_true(old),
            "notes": [*old.plan.notes, *([] if old.recipe else [_UNTOLD]), *_stood_in(solved)],
        }

    def _came_true(self, old: Published) -> list[dict[str, Any]]:
        """By zone: grams of what was to be done by now, as expected and at what was measured since."""
        now, of = self._clock.now(), parents(old)
        measured = {zone: self._measured(zone, old.made_at, now) for zone in {pool.zone for pool in old.problem.pools}}
        found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for use in [*old.plan.uses, *old.plan.holds]:
            slot, pool, job = old.plan.slots[use.slot_index], old.problem.pool(use.pool), old.jobs[use.batch_id]
            start, end = old.at(slot.start_s), old.at(slot.end_s)
            if end > now:
                continue
            power_w = use.power_w if isinstance(use, Hold) else job.power_w_on[key_of(job, use)]
            kwh = power_w * use.seconds * pool.pue / JOULES_PER_KWH
            forecast = pool.intensity_g_per_kwh[of[use.slot_index]]
            mean, share = mean_realised(measured[pool.zone], start, end)
            if forecast is None or mean is None or share < _WHOLE:
                found[pool.zone][2] += kwh
            else:
                found[pool.zone][0] += kwh * forecast
                found[pool.zone][1] += kwh * mean
        return [
            {"zone": zone, "expected_g": expected, "true_g": true, "unknown_kwh": unknown}
            for zone, (expected, true, unknown) in sorted(found.items())
        ]

    def _measured(self, zone: str, start: datetime, now: datetime) -> list[Realised]:
        try:
            return self._provider.realised(zone, start, now, now)
        except ForecastUnavailable:
            return []


def _stood_in(again: Solved) -> list[str]:
    told = f"This time the solver gave no plan ({again.stood_in}): what was made again was made without it."
    return [told] if again.stood_in else []


def differing(old: Plan, new: Plan) -> list[str]:
    """In what two plans of the same problem differ, in words; empty where they are the same. Notes do not count."""
    out: list[str] = []
    if old.slots != new.slots:
        out.append(f"{len(old.slots)} slots, and {len(new.slots)} now")
    for word, was, will in (
        ("allotments", old.allotments, new.allotments),
        ("engine starts", old.loads, new.loads),
        ("holds", old.holds, new.holds),
    ):
        gone, come = set(was) - set(will), set(will) - set(was)
        if gone or come:
            out.append(f"{len(gone)} of {len(was)} {word} are not there now, {len(come)} others are")
    if out and old.solver != new.solver:
        out.append(f"the solver was {old.solver}, and is {new.solver} now")
    return out


def _versions(old: Published) -> list[str]:
    if old.recipe is None:
        return []
    ours, theirs = versions(), old.recipe.versions
    return [
        f"{name} was {theirs.get(name, 'not known')}, and is {ours.get(name, 'not there')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
