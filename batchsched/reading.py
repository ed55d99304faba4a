"""Rows read as jobs, each by itself: one that cannot be read must not stand in the way of all others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchsched.planner import Job

log = logging.getLogger(__name__)


def jobs_of(rows: Sequence[Mapping[str, Any]], job_of: Callable[[Mapping[str, Any]], Job]) -> tuple[list[Job], list[str]]:
    """The jobs of batches, and what to tell of those that cannot be read."""
    jobs, notes = list[Job](), list[str]()
    for row in rows:
        try:
            jobs.append(job_of(row))
        except Exception as problem:
            log.exception("Batch %s cannot be read; it is planned no work.", row["id"])
            notes.append(f"Batch {row['id']} cannot be read ({type(problem).__name__}: {problem}); it is planned no work.")
    return jobs, notes
