"""The verdict of a batch as it is told: judged beside all others, with what would mend it where it is not feasible."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchsched.fleet import Fleet
from batchsched.observe import View
from batchsched.planner import Job, Plan, make_plan
from batchsched.planner.advice import Alternative, Option
from batchsched.planner.room import rooms
from batchsched.planner.verdict import Verdict, verdict
from batchsched.profiles.answers import EMBEDDINGS
from batchsched.queue import batches
from batchsched.units import iso

log = logging.getLogger(__name__)


MOST_ADVISED = 20
"""Where more are not feasible, or come into doubt, at once, the first of them, by deadline, are told what would mend it."""
JOBS_ADVISED = 2000
"""Of how many jobs all that advice may be made: a piece of it looks at each open job, and a plan may wait for it."""


def judged(view: View, found: Sequence[Mapping[str, Any]], fleet: Fleet) -> list[dict[str, Any]]:
    """The answers at submission for batches that the view has among its jobs, as JSON.

    When they will be done and what they will cost is told by the greedy plan: the solver may be busy for seconds.
    """
    try:
        plan = make_plan(view.problem, "at-once" if view.overrides.frozen else "greedy")
    except Exception:
        log.exception("No plan could be made for a verdict; it does without.")
        plan = Plan(view.problem.slots, [])
    open_to = rooms(view.problem, {batch["id"] for batch in found})
    out, advised = list[dict[str, Any]](), 0
    for batch in found:
        others = alternatives(view, batch, fleet) if advised < most_advised(view) else None
        answer = verdict(view.problem, plan, batch["id"], others, open_to[batch["id"]])
        advised += not answer.feasible
        out.append(_as_answer(view, answer))
    return out


def most_advised(view: View) -> int:
    """How many at once are told what would do."""
    return max(1, min(MOST_ADVISED, JOBS_ADVISED // max(1, len(view.problem.jobs))))


def _as_answer(view: View, found: Verdict) -> dict[str, Any]:
    return {
        "feasible": found.feasible,
        "probability": round(found.probability, 4),
        "expected_finish_at": _at(view, found.expected_finish_s),
        "expected_grams": found.expected_grams,
        "expected_grams_run_now": found.expected_grams_run_now,
        "reason": found.reason,
        "options": [as_json(view, option) for option in found.options],
    }


def as_json(view: View, option: Option) -> dict[str, Any]:
    """An option as it is told; what its kind does not need is null."""
    return {
        "kind": option.kind,
        "probability": round(option.probability, 4),
        "deadline_at": _at(view, option.deadline_s),
        "sites": option.sites or None,
        "model": option.model,
        "pool": option.pool,
        "replicas": option.replicas or None,
    }


def alternatives(view: View, batch: Mapping[str, Any], fleet: Fleet) -> Iterator[Alternative]:
    """The batch with one site more than it allows, and with one model more than it accepts: of those that are faster the one that
    is nearest to its own first."""
    allowed, named = batch["options"].get("sites") or [], batches.models(batch)
    served = {pool.site for pool in fleet.pools.values()}
    for site in fleet.sites if allowed else ():
        if site in served and site not in allowed:
            yield Alternative(_with(view, batch, sites=[*allowed, site]), sites=[*allowed, site])
    if batch["endpoint"] == EMBEDDINGS:
        return  # vectors of different models cannot be compared
    own_s = _fastest_s(_with(view, batch))
    others = {
        name: _with(view, batch, models=[*named, name])
        for name in fleet.models
        if name not in named and _holds(fleet, name, batch)
    }
    for name in sorted(others, key=lambda name: (-_fastest_s(others[name]), name)):
        if _fastest_s(others[name]) < own_s:
            yield Alternative(others[name], model=name)


def _with(view: View, batch: Mapping[str, Any], **options: Any) -> Job:
    return view.job_of({**batch, "options": {**batch["options"], **options}})


def _fastest_s(job: Job) -> float:
    return min(job.seconds_on.values(), default=float("inf"))


def _holds(fleet: Fleet, model: str, batch: Mapping[str, Any]) -> bool:
    """Is its context long enough for the usual answer that the batch asks for?"""
    longest = fleet.models[model].max_model_len
    return longest is None or (batch["max_tokens_total"] or 0) < longest * max(1, batch["total"])


def _at(view: View, seconds: float | None) -> str | None:
    return None if seconds is None else iso(view.at(seconds))
