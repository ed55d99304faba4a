"""The verdict of a batch as it is told: judged beside all others, with what would mend it where it is not feasible."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchsched.fleet import Fleet
from batchsched.observe import View
from batchsched.planner import Job, Plan, prepared
from batchsched.planner.advice import Alternative, Option
from batchsched.planner.at_once import at_once
from batchsched.planner.greedy import greedy
from batchsched.planner.room import rooms
from batchsched.planner.sound import sound
from batchsched.planner.verdict import Verdict, verdict
from batchsched.profiles.answers import EMBEDDINGS
from batchsched.queue import batches
from batchsched.units import iso

log = logging.getLogger(__name__)


MOST_ADVISED = 20
"""Where more are not feasible, or come into doubt, at once, the first of them, by deadline, are told what would mend it."""
MOST_WINDOWS = 5
"""Of a batch that is spread over more, the first are named."""
UNJUDGED = "It could not be judged ({}: {}); the server's log says more."
JOBS_ADVISED = 2000
"""Of how many jobs all that advice may be made: a piece of it looks at each open job, and a plan may wait for it."""


def judged(view: View, found: Sequence[Mapping[str, Any]], fleet: Fleet) -> list[dict[str, Any]]:
    """The answers at submission for batches that the view has among its jobs, as JSON.

    When they will be done and what they will cost is told by the greedy plan: the solver may be busy for seconds.
    """
    problem = view.problem
    try:
        problem, _ = sound(problem)
        fine, due = prepared(problem)
        plan = (at_once if view.overrides.frozen else greedy)(fine, due)
    except Exception:
        log.exception("No plan could be made for a verdict; it does without.")
        plan = Plan(problem.slots, [])
    open_to = rooms(problem, {batch["id"] for batch in found})
    out, advised = list[dict[str, Any]](), 0
    for batch in found:
        others = alternatives(view, batch, fleet) if advised < most_advised(view) else None
        try:
            answer = verdict(problem, plan, batch["id"], others, open_to.get(batch["id"]))
        except Exception as error:  # the others are judged all the same
            log.exception("Batch %s cannot be judged.", batch["id"])
            answer = Verdict(False, 0.0, None, None, None, UNJUDGED.format(type(error).__name__, error))
        advised += not answer.feasible
        remark = in_windows(view, plan, batch["id"]) if answer.feasible else shut(view, batch["id"]) + _unfit(view, batch)
        out.append(_as_answer(view, answer, remark))
    return out


def most_advised(view: View) -> int:
    """How many at once are told what would do."""
    return max(1, min(MOST_ADVISED, JOBS_ADVISED // max(1, len(view.problem.jobs))))


def shut(view: View, batch_id: str) -> str:
    """A sentence about pools that operators closed to a batch of the view; empty where they closed none."""
    job = next((job for job in view.problem.jobs if job.batch_id == batch_id), None)
    closed = [name for name in job.pools if name in view.overrides.for_good()] if job else []
    if not closed:
        return ""
    said = f"pool{'s' if len(closed) > 1 else ''} {' and '.join(closed)}"
    return f" P{said[1:]} could work on it, but {'are' if len(closed) > 1 else 'is'} closed: open {said}."


def in_windows(view: View, plan: Plan, batch_id: str) -> str:
    """A sentence about the windows in which a plan has a batch; empty where its pools have none."""
    mine = plan.of(batch_id)
    end = view.at(max((a.end_s for a in mine), default=0.0))
    opened = {pool: view.openings.named(pool, view.now, end) for pool in {a.pool for a in mine}}
    found = {
        next((each for each in opened[a.pool] if each[0] <= middle < each[1]), None)
        for a in mine
        for middle in [view.at((a.start_s + a.end_s) / 2)]
    }
    named = [
        f"{name} from {since:%d %b %H:%M} to {until:%d %b %H:%M}" if since > view.now else f"{name}, which is open now"
        for since, until, name in sorted(filter(None, found))
    ]
    more = f" and {len(named) - MOST_WINDOWS} more" if len(named) > MOST_WINDOWS else ""
    several = f"is spread over {len(named)} windows" if len(named) > 1 else "runs in the window"
    return f" By the plan of this moment it {several}: {', '.join(named[:MOST_WINDOWS])}{more} (UTC)." if named else ""


def _unfit(view: View, batch: Mapping[str, Any]) -> str:
    """Why pools cannot run the models that a batch accepts."""
    return "".join(f" {why}" for model in batches.models(batch) for why in view.unfit.get(model, []))


def _as_answer(view: View, found: Verdict, remark: str) -> dict[str, Any]:
    return {
        "feasible": found.feasible,
        "probability": round(found.probability, 4),
        "expected_finish_at": _at(view, found.expected_finish_s),
        "expected_grams": found.expected_grams,
        "expected_grams_run_now": found.expected_grams_run_now,
        "reason": found.reason + remark,
        "options": [as_json(view, option) for option in found.options],
    }


def as_json(view: View, option: Option) -> dict[str, Any]:
    """An option as it is told; what its kind does not need is null."""
    return {
        "kind": option.kind,
        "probability": round(option.probability, 4),
        "deadline_at": _at(view, option.deadline_s),
        "sites": option.sites or None,
        "zones": option.zones or None,
        "model": option.model,
        "pool": option.pool,
        "replicas": option.replicas or None,
    }


def alternatives(view: View, batch: Mapping[str, Any], fleet: Fleet) -> Iterator[Alternative]:
    """The batch with one site or zone more than it allows, and with one model more than it accepts: of those that are faster the
    one that is nearest to its own first."""
    named = batches.models(batch)
    for more in _places(batch, fleet):
        yield Alternative(_with(view, batch, **more), more.get("sites", []), more.get("zones", []))
    if batch["endpoint"] == EMBEDDINGS:
        return  # vectors of different models cannot be compared
    own_s = _fastest_s(_with(view, batch))
    others = {
        name: _with(view, batch, models=[*named, name])
        for name in fleet.models
        if name not in named and not fleet.models[name].variant_of and _holds(fleet, name, batch)
    }
    for name in sorted(others, key=lambda name: (-_fastest_s(others[name]), name)):
        if _fastest_s(others[name]) < own_s:
            yield Alternative(others[name], model=name)


def _places(batch: Mapping[str, Any], fleet: Fleet) -> Iterator[dict[str, list[str]]]:
    """Its sites and one more, with the zone of that where its zones forbid it; its zones and one more."""
    sites, zones = batch["options"].get("sites") or [], batch["options"].get("zones") or []
    zone_of = {pool.site: fleet.sites[pool.site].zone for pool in fleet.pools.values()}
    for site in fleet.sites if sites else ():
        if site in zone_of and site not in sites:
            more = {"zones": [*zones, zone_of[site]]} if zones and zone_of[site] not in zones else {}
            yield {"sites": [*sites, site], **more}
    for zone in sorted({*zone_of.values()} - {*zones}) if zones else ():
        yield {"zones": [*zones, zone]}


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
