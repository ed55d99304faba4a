"""How far a batch is, and what it waits for: in words, with an instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from batchsched.clock import Clock
from batchsched.planner.explain import waiting_for
from batchsched.planner.verdict import finish_s
from batchsched.published import Published
from batchsched.queue import batches
from batchsched.queue.states import TERMINAL
from batchsched.scheduler import Scheduler
from batchsched.units import from_iso, iso

SPEED_OVER = timedelta(seconds=30)
_OTHERWISE = {
    "validating": "validation",
    "finalizing": "its results to be merged",
    "cancelling": "the requests in flight",
}


class Waiting(NamedTuple):
    """What a batch waits for, and until when. `stalled`: nothing that is planned ends it; somebody has to do something."""

    text: str | None = None
    until: datetime | None = None
    stalled: bool = False


class Progress:
    """Reads the plan in force; changes nothing."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock

    def of(self, row: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], running_on: list[str]) -> dict[str, Any]:
        """A batch's progress as JSON. `entries`: its ledger; `running_on`: pools that hold leases of it."""
        terminal = row["state"] in TERMINAL
        waiting = Waiting() if running_on or terminal else self.waiting(row)
        published = self._scheduler.published
        latest = published.latest_start_at.get(row["id"]) if published and not terminal else None
        return {
            "requests_done": row["completed"] + row["failed"],
            "requests_total": row["total"],
            "input_tokens": row["input_tokens"],
            "output_tokens": row["output_tokens"],
            "tokens_per_s": self._speed(entries, terminal),
            "state": "done" if terminal else "running" if running_on else "paused" if row["paused_at"] else "waiting",
            "waiting_for": waiting.text,
            "waiting_until": iso(waiting.until) if waiting.until else None,
            "stalled": waiting.stalled,
            "running_on": running_on,
            "latest_safe_start_at": iso(latest) if latest else None,
            "expected_finish_at": None if terminal else self._finish(row),
        }

    def _finish(self, row: Mapping[str, Any]) -> str | None:
        """When it will be done by the plan in force, by the verdict before there is one; None where that is past."""
        published, now = self._scheduler.published, iso(self._clock.now())
        if published is None or row["id"] not in published.jobs:
            told: str | None = (row["verdict"] or {}).get("expected_finish_at")
        else:
            seconds = finish_s(published.problem, published.plan, published.jobs[row["id"]])
            told = None if seconds is None else iso(published.at(seconds))
        return told if told and told >= now else None

    def _speed(self, entries: Sequence[Mapping[str, Any]], terminal: bool) -> float | None:
        """Output tokens a second: of the last half minute while it runs, over all busy time once it is done."""
        since = self._clock.now() - SPEED_OVER
        recent = [entry for entry in entries if terminal or entry["ended_at"] >= since]
        if not recent:
            return None
        tokens = sum(entry["output_tokens"] for entry in recent)
        span_s = (max(e["ended_at"] for e in recent) - min(e["started_at"] for e in recent)).total_seconds()
        length_s = sum(entry["busy_s"] for entry in recent) if terminal else span_s
        return round(tokens / length_s, 1) if length_s > 0 else None

    def waiting(self, row: Mapping[str, Any]) -> Waiting:
        """What a batch waits for, and until when."""
        if row["state"] != "in_progress":
            return Waiting(_OTHERWISE.get(row["state"]))
        if row["paused_at"]:
            return Waiting("`batchsched resume`")
        if row["reopen"]:
            return Waiting("its earlier answers to be taken over")
        published = self._scheduler.published
        if published is None or row["id"] not in published.jobs or _told_since(row, published):
            return Waiting("the next plan")
        return self._planned(published, row)

    def _planned(self, published: Published, row: Mapping[str, Any]) -> Waiting:
        batch_id = row["id"]
        pools = published.jobs[batch_id].pools
        opened = [pool for pool in pools if pool not in published.overrides.for_good()]
        if pools and not opened:
            return Waiting(f"pool {' or '.join(pools)} to be opened", stalled=True)
        if not opened:
            whys = [why for model in batches.models(row) for why in published.unfit.get(model, [])]
            return Waiting(": ".join(["a pool that serves its model", *([" ".join(whys)] if whys else [])]), stalled=True)
        if not any(pool in published.connected for pool in opened):
            return Waiting(f"a worker of pool {' or '.join(opened)}", stalled=True)
        return self._placed(published, batch_id, opened)

    def _placed(self, published: Published, batch_id: str, opened: Sequence[str]) -> Waiting:
        """What it waits for where the plan has it."""
        ahead = [a for a in published.plan.of(batch_id) if published.at(a.end_s) > self._clock.now()]
        if not ahead:
            ever = any(max(state.capacity, default=0.0) > 0 for state in published.problem.pools if state.name in opened)
            return Waiting("the next plan" if ever else f"a window of pool {' or '.join(opened)} to open")
        if published.engineless.keys() >= {a.pool for a in ahead}:
            pool = ahead[0].pool
            return Waiting(f"an engine in pool {pool} that starts: {published.engineless[pool]}", stalled=True)
        waiting = waiting_for(published.problem, published.plan, batch_id)
        if waiting is None or published.at(waiting[1]) <= self._clock.now():
            return Waiting(f"an engine in pool {ahead[0].pool}")
        return Waiting(waiting[0], published.at(waiting[1]))


def _told_since(row: Mapping[str, Any], published: Published) -> bool:
    """Was it told to start now after this plan was made?"""
    return bool(row["started"]) and from_iso(row["started"]["since"]) > published.made_at
