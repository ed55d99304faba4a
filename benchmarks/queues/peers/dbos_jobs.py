"""DBOS: so many no-op workflows through a queue. Usage: dbos_jobs.py URL JOBS CONCURRENCY; prints JSON.

It writes a workflow's start and its result, as a durable workflow engine has to. The clock runs from the first that ran
to the last result.
"""

from __future__ import annotations

import json
import sys
import time

from dbos import DBOS


def main(url: str, jobs: int, concurrency: int) -> None:
    """Prepare, work, say how long it took."""
    ran: list[float] = []
    DBOS(config={"name": "noop", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})

    def noop() -> None:
        ran.append(time.monotonic())

    workflow = DBOS.workflow()(noop)
    DBOS.launch()
    DBOS.register_queue("noop", worker_concurrency=concurrency, polling_interval_sec=0.01)
    handles = [DBOS.enqueue_workflow("noop", workflow) for _ in range(jobs)]
    for handle in handles:
        handle.get_result(polling_interval_sec=0.01)
    ended = time.monotonic()
    assert len(ran) == jobs, f"{len(ran)} of {jobs} jobs ran"
    DBOS.destroy()
    print(json.dumps({"jobs": jobs, "seconds": ended - ran[0]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
