"""Our queue, driven through its port as a server drives it: chunks leased, groups of results recorded, files on disk included.

Usage: python -m benchmarks.queues.ours DATABASE FOLDER JOBS PROCESSES THREADS CHUNK_LINES CLAIM GROUP; prints JSON.

A process stands for a server, its threads for the workers' requests that it answers at the same time. Each thread leases CLAIM
chunks at a time and records GROUP results at a time. The clock runs from the first lease to the last acknowledgement, over all
processes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from batchsched.clock import RandomIds
from batchsched.queue import batches, chunks
from batchsched.queue.database import Database
from batchsched.queue.results import Recorder
from batchsched.queue.stores import open_store
from batchsched.wire import Result

LEASE_S = 600.0
ANSWER = {"id": "batch_req_0", "custom_id": "request-0", "response": {"status_code": 200, "body": {}}, "error": None}


class Plan(msgspec.Struct, frozen=True):
    """What is measured."""

    database: str
    folder: str
    jobs: int
    processes: int = 1
    threads: int = 1
    chunk_lines: int = 200
    claim: int = 1
    group: int = 100

    @property
    def lines(self) -> int:
        """Requests in each batch: a batch for each process."""
        return self.jobs // self.processes

    def open(self) -> Database:
        """The database, migrated."""
        return Database(self.database if "://" in self.database else Path(self.database))


def prepare(plan: Plan) -> None:
    """A batch in progress for each process, cut into chunks."""
    database, now = plan.open(), datetime.now(UTC)
    for number in range(plan.processes):
        with database.write() as connection:
            batches.add(
                connection, id=f"batch_{number}", tenant="default", endpoint="/v1/chat/completions", input_file_id="file",
                completion_window="24h",
                model="tiny", state="in_progress", created_at=now, deadline_at=now + timedelta(days=1), total=plan.lines,
                meta={}, options={},
            )  # fmt: skip
            chunks.add(connection, list(_chunks(plan, number)))
    database.close()


def _chunks(plan: Plan, number: int) -> Iterator[dict[str, Any]]:
    for position, first in enumerate(range(0, plan.lines, plan.chunk_lines)):
        lines = min(plan.chunk_lines, plan.lines - first)
        yield {
            "id": f"chunk_{number}_{position}", "batch_id": f"batch_{number}", "position": position, "first_line": first + 1,
            "lines": lines, "byte_start": 0, "byte_end": 1, "suspects": [], "parts": [],
        }  # fmt: skip


def serve(plan: Plan, process: int, barrier: Any, stamps: Any) -> None:
    """One server: its threads lease and record until nothing is left."""
    database, store = plan.open(), open_store("", Path(plan.folder))
    recorder = Recorder(database, store, RandomIds())
    output = msgspec.Raw(msgspec.json.encode(ANSWER))
    answers = [Result(line, True, 10, 0, 10, output) for line in range(1, plan.lines + 1)]

    def work(_thread: int) -> None:
        while leased := _claim(database, f"batch_{process}", plan.claim):
            for chunk in leased:
                recorder.done(chunk)
                end = chunk["first_line"] - 1 + chunk["lines"]
                for start in range(chunk["first_line"] - 1, end, plan.group):
                    recorder.record(chunk["id"], chunk["token"], answers[start : min(start + plan.group, end)])

    with ThreadPoolExecutor(plan.threads) as pool:
        list(pool.map(lambda _: _claim(database, "none", 1), range(plan.threads)))  # connections are made before the clock starts
        barrier.wait()
        began = time.monotonic()
        list(pool.map(work, range(plan.threads)))
        stamps.put((began, time.monotonic()))
    database.close()


def _claim(database: Database, batch_id: str, limit: int) -> list[dict[str, Any]]:
    with database.statement() as connection:
        return chunks.claim(
            connection, batch_id, worker_id="worker_0", pool="pool", limit=limit, now=datetime.now(UTC), lease_s=LEASE_S
        )


def check(plan: Plan) -> None:
    """Everything is done, and every result lies in the store."""
    database, store = plan.open(), open_store("", Path(plan.folder))
    for number in range(plan.processes):
        with database.read() as connection:
            rows, batch = chunks.of_batch(connection, f"batch_{number}"), batches.get(connection, f"batch_{number}", "default")
        assert {row["state"] for row in rows} == {"done"}
        assert batch["completed"] == plan.lines
        found = sum(1 for row in rows for _ in store.records(row))
        assert found == plan.lines
    database.close()


def main(plan: Plan) -> None:
    """Prepare, serve, check, say how long it took."""
    prepare(plan)
    context = get_context("spawn")
    barrier, stamps = context.Barrier(plan.processes), context.SimpleQueue()
    servers = [context.Process(target=serve, args=(plan, number, barrier, stamps)) for number in range(plan.processes)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
        assert server.exitcode == 0
    spans = [stamps.get() for _ in servers]
    check(plan)
    seconds = max(ended for _, ended in spans) - min(began for began, _ in spans)
    print(json.dumps({"jobs": plan.lines * plan.processes, "seconds": seconds}))


if __name__ == "__main__":
    main(Plan(sys.argv[1], sys.argv[2], *(int(word) for word in sys.argv[3:])))
