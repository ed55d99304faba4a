"""A promise that gets worse is told, on the batch, to webhooks, in audit log and metrics; and so it is when it holds again."""

from __future__ import annotations

from typing import Any

from batchsched.fleet import Fleet
from batchsched.judging import alternatives, as_json
from batchsched.observe import View
from batchsched.planner import Job, Plan
from batchsched.planner.advice import options, words
from batchsched.planner.room import probabilities
from batchsched.planner.verdict import finish_s
from batchsched.queue import batches, risks
from batchsched.queue.database import Database, again
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.units import iso

WORSE = 2.0
"""A promise is in doubt once a miss is this many times as likely as was allowed; it holds again once a miss is that rare."""
MOST_ADVISED = 20
"""Where more come into doubt at once, the first of them, by deadline, are told what would mend it."""


class Risks:
    """Judges what was promised, each time a plan was made."""

    def __init__(self, database: Database, fleet: Fleet) -> None:
        self._database, self._fleet = database, fleet

    def look(self, view: View, plan: Plan) -> None:
        """Judge every batch of the view; tell what changed."""
        with self._database.read() as connection:
            promises = risks.promises(connection)
        known = [job for job in sorted(view.problem.jobs, key=lambda job: job.deadline_s) if job.batch_id in promises]
        asked = [job for job in known if promises[job.batch_id]["feasible"] or promises[job.batch_id]["risk"]]
        if not asked:
            return
        chances = probabilities(view.problem, {job.batch_id for job in asked})
        advised = 0
        for job in asked:
            promise, chance = promises[job.batch_id], chances[job.batch_id]
            if promise["risk"] is None and in_doubt(chance, job.confidence):
                self._raise(view, promise, self._found(view, plan, job, chance, advised < MOST_ADVISED))
                advised += 1
            elif promise["risk"] is not None and (chance >= job.confidence or not promise["feasible"]):
                self._clear(view, promise, {"probability": round(chance, 4)})

    @again
    def _raise(self, view: View, promise: Row, found: dict[str, Any]) -> None:
        with self._database.write() as connection:
            risks.raise_one(connection, promise, found, view.now)

    @again
    def _clear(self, view: View, promise: Row, found: dict[str, Any]) -> None:
        with self._database.write() as connection:
            risks.clear(connection, promise, found, view.now)

    def _found(self, view: View, plan: Plan, job: Job, chance: float, advise: bool) -> dict[str, Any]:
        """What is known of a promise in doubt, as JSON."""
        mending = options(view.problem, job, alternatives(view, self._row(job.batch_id), self._fleet)) if advise else []
        advice, end_s = words(job, mending), finish_s(view.problem, plan, job)
        return {
            "probability": round(chance, 4),
            "deadline_at": iso(view.at(job.deadline_s)),
            "expected_finish_at": iso(view.at(end_s)) if end_s is not None else None,
            "reason": f"The deadline now holds with a probability of {chance:.0%} only, asked are {job.confidence:.0%}"
            + (f"; {advice}." if advice else "."),
            "options": [as_json(view, option) for option in mending],
        }

    def _row(self, batch_id: str) -> Row:
        with self._database.read() as connection:
            return batches.get(connection, batch_id, ANY)


def in_doubt(chance: float, confidence: float) -> bool:
    """Is a probability too far below what was asked?"""
    allowed = 1 - confidence
    return 1 - chance > min(WORSE * allowed, (1 + allowed) / 2)
