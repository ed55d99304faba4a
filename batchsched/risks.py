"""A promise that gets worse is told, on the batch, to webhooks, in audit log and metrics; and so it is when it holds again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from batchsched.judging import alternatives, as_json, most_advised, shut
from batchsched.observe import Observer, View
from batchsched.planner import Job, Plan
from batchsched.planner.advice import options, words
from batchsched.planner.room import probabilities
from batchsched.planner.sound import sound, sound_job
from batchsched.planner.verdict import finish_s
from batchsched.queue import batches, risks
from batchsched.queue.database import Database, again
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.reading import jobs_of
from batchsched.units import iso

WORSE = 2.0
"""A promise is in doubt once a miss is this many times as likely as was allowed; it holds again once a miss is that rare."""


class Risks:
    """Judges what was promised, each time a plan was made."""

    def __init__(self, database: Database, observer: Observer) -> None:
        self._database, self._observer = database, observer

    def look(self, view: View, plan: Plan) -> None:
        """Judge every batch of the view, and those that are paused as if they went on at once; tell what changed."""
        with self._database.read() as connection:
            promises = risks.promises(connection)
            held = [row for row in batches.paused(connection) if row["id"] in promises]
        view = self._observer.reaching(view, held)
        paused = {job.batch_id: job for job in jobs_of(held, view.job_of)[0]}
        known = {job.batch_id: job for job in view.problem.jobs} | paused
        asked = [known[name] for name, promise in promises.items() if name in known and (promise["feasible"] or promise["risk"])]
        if not asked:
            return
        others = [job for job in view.problem.jobs if job.batch_id not in paused]
        problem, _ = sound(msgspec.structs.replace(view.problem, jobs=others))
        aside = [sound_job(problem, job) for job in asked if job.batch_id in paused]
        chances = probabilities(problem, {job.batch_id for job in asked}, aside)
        worse, better = list[Job](), list[Job]()
        for job in sorted(asked, key=lambda job: job.deadline_s):
            promise, chance = promises[job.batch_id], chances[job.batch_id]
            if promise["risk"] is None and in_doubt(chance, job.confidence):
                worse.append(job)
            elif promise["risk"] is not None and (chance >= job.confidence or not promise["feasible"]):
                better.append(job)
        most = most_advised(view)
        found = {
            job.batch_id: self._found(view, plan, job, chances[job.batch_id], advise=n < most, paused=job.batch_id in paused)
            for n, job in enumerate(worse)
        }
        cleared = {job.batch_id: {"probability": round(chances[job.batch_id], 4)} for job in better}
        if found or cleared:
            self._tell(promises, found, cleared, view.now)

    @again
    def _tell(
        self,
        promises: Mapping[str, Row],
        found: Mapping[str, dict[str, Any]],
        cleared: Mapping[str, dict[str, Any]],
        now: datetime,
    ) -> None:
        """All in one transaction: where a pool is lost there may be thousands."""
        with self._database.write() as connection:
            for name, risk in found.items():
                risks.raise_one(connection, promises[name], risk, now)
            for name, known in cleared.items():
                risks.clear(connection, promises[name], known, now)

    def _found(self, view: View, plan: Plan, job: Job, chance: float, *, advise: bool, paused: bool) -> dict[str, Any]:
        """What is known of a promise in doubt, as JSON."""
        mending = options(view.problem, job, alternatives(view, self._row(job.batch_id), self._observer.fleet)) if advise else []
        advice, end_s = words(job, mending), finish_s(view.problem, plan, job)
        return {
            "probability": round(chance, 4),
            "deadline_at": iso(view.at(job.deadline_s)),
            "expected_finish_at": iso(view.at(end_s)) if end_s is not None else None,
            "reason": f"The deadline now holds with a probability of {chance:.0%} only, asked are {job.confidence:.0%}"
            + (", even if it is resumed at once" if paused else "")
            + (f"; {advice}." if advice else ".")
            + shut(view, job.batch_id),
            "options": [as_json(view, option) for option in mending],
        }

    def _row(self, batch_id: str) -> Row:
        with self._database.read() as connection:
            return batches.get(connection, batch_id, ANY)


def in_doubt(chance: float, confidence: float) -> bool:
    """Is a probability too far below what was asked?"""
    allowed = 1 - confidence
    return 1 - chance > min(WORSE * allowed, (1 + allowed) / 2)
