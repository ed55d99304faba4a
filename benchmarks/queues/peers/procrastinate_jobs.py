"""procrastinate: so many no-op jobs by one worker. Usage: procrastinate_jobs.py URL JOBS CONCURRENCY; prints JSON.

psycopg, as its documentation has it, no waiting for notifications. The clock runs from the first job that ran to the last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector

ENQUEUE = 500


async def main(url: str, jobs: int, concurrency: int) -> None:
    """Prepare, work, say how long it took."""
    ran: list[float] = []

    async def noop() -> None:
        ran.append(time.monotonic())

    app = App(connector=PsycopgConnector(conninfo=url))
    task = app.task(name="noop")(noop)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, jobs, ENQUEUE):
            await task.batch_defer_async(*({} for _ in range(min(ENQUEUE, jobs - start))))
        await app.run_worker_async(wait=False, concurrency=concurrency, listen_notify=False, install_signal_handlers=False)
    assert len(ran) == jobs, f"{len(ran)} of {jobs} jobs ran"
    print(json.dumps({"jobs": jobs - 1, "seconds": ran[-1] - ran[0]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
