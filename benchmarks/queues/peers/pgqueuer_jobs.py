"""pgqueuer: so many no-op jobs drained. Usage: pgqueuer_jobs.py URL JOBS PROCESSES MANAGERS BATCH; prints JSON.

Its own benchmark drains like this: the asyncpg driver, uvloop, a connection and a queue manager for each consumer. Its tables
keep their default, all logged. The clock runs from the first job that ran to the last, over all processes: starting and
stopping are free, and so each consumer's first batch, which was fetched before, is not counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from multiprocessing import get_context

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

ENQUEUE = 1000


async def prepare(url: str, jobs: int) -> None:
    """Its schema, its advice for autovacuum, and the jobs."""
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    for start in range(0, jobs, ENQUEUE):
        count = min(ENQUEUE, jobs - start)
        await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
    await connection.close()


async def drain(url: str, managers: int, batch: int) -> list[float]:
    """When jobs ran, for every job of this process."""
    ran: list[float] = []

    async def noop(_job: Job) -> None:
        ran.append(time.monotonic())

    async def one() -> None:
        connection = await asyncpg.connect(url)
        queue = PgQueuer.from_asyncpg_connection(connection)
        queue.entrypoint("noop")(noop)
        await queue.run(batch_size=batch, mode=QueueExecutionMode.drain)
        await connection.close()

    await asyncio.gather(*(one() for _ in range(managers)))
    return ran


def consumer(url: str, managers: int, batch: int) -> list[float]:
    """One process."""
    ran: list[float] = uvloop.run(drain(url, managers, batch))
    return ran


def main(url: str, jobs: int, processes: int, managers: int, batch: int) -> None:
    """Prepare, drain, say how long it took."""
    uvloop.run(prepare(url, jobs))
    with get_context("spawn").Pool(processes) as pool:
        ran = sorted(at for times in pool.starmap(consumer, [(url, managers, batch)] * processes) for at in times)
    assert len(ran) == jobs, f"{len(ran)} of {jobs} jobs ran"
    print(json.dumps({"jobs": jobs - processes * managers * batch, "seconds": ran[-1] - ran[0]}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:6]))
