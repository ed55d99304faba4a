"""APScheduler as we use it: alarms in memory that ring late rather than never, and an end that nothing trips over.

Only those that set alarms import this: APScheduler takes a while.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

_RING = {"coalesce": True, "max_instances": 1000, "misfire_grace_time": None}
"""One that is late rings all the same, and so does one that is due while the last is being answered (what must not happen twice
at once is locked); by default both are dropped."""


class Alarms(BackgroundScheduler):  # type: ignore[misc]  # APScheduler says no types
    """A running scheduler of alarms; `shutdown()` ends it after what is under way."""

    def __init__(self, executors: dict[str, BaseExecutor] | None = None) -> None:
        jobstores = {"default": MemoryJobStore()}
        super().__init__(jobstores=jobstores, executors=executors or {}, job_defaults=_RING, timezone=UTC)
        self.start()

    def remove_job(self, job_id: str, jobstore: Any = None) -> None:
        """Take an alarm away, if it is there.

        One that rings is no longer; and one that rings while another thread calls `shutdown()` is not found by APScheduler's own
        thread, which would end with an error.
        """
        with suppress(JobLookupError):
            super().remove_job(job_id, jobstore)
