"""huey over SQLite: so many no-op jobs by one consumer. Usage: huey_jobs.py FILE JOBS THREADS FSYNC(0|1); prints JSON.

It deletes a job before it runs it (at most once), so it commits once a job where others commit twice. FSYNC=1 is
`synchronous=FULL`. The clock runs from the first job that ran to the last.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from huey import SqliteHuey


def main(file: str, jobs: int, threads: int, fsync: int) -> None:
    """Prepare, work, say how long it took."""
    ran: list[float] = []
    over = threading.Event()

    def noop() -> None:
        ran.append(time.monotonic())
        if len(ran) == jobs:
            over.set()

    huey = SqliteHuey(filename=file, fsync=bool(fsync), results=False, timeout=60)
    task = huey.task()(noop)
    huey.storage.conn.execute("pragma synchronous=0")  # filling the queue is not what we measure
    for _ in range(jobs):
        task()
    huey.storage.close()
    consumer = huey.create_consumer(workers=threads, periodic=False, check_worker_health=False)
    consumer.start()
    over.wait()
    consumer.stop(graceful=True)
    print(json.dumps({"jobs": jobs - 1, "seconds": ran[-1] - ran[0]}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:5]))
