"""After a restore, nobody's lease from a state that was lost is taken for one of the restored database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchsched.queue import backup, chunks
from batchsched.queue.restored import RESTORED
from tests.live import HandWorker, LiveServer, live_server, requests


def _chunk(server: LiveServer, chunk_id: str) -> dict[str, object]:
    with server.runtime.database.read() as connection:
        return chunks.get(connection, chunk_id)


def test_work_that_was_leased_after_the_backup_is_refused(tmp_path: Path) -> None:
    """The chunk's first lease is given twice: by the server that is lost, and by the one that was restored."""
    copy = tmp_path / "restored" / "data"
    copy.mkdir(parents=True)
    with live_server(tmp_path / "lost", server__chunk_lines=5) as server:
        batch_id = server.submit(requests(5))["id"]
        server.until(batch_id, "in_progress")
        data = tmp_path / "lost" / "data"
        backup.of_sqlite(data / "batchsched.db", data, copy)
        of_before = server.worker().lease()
    with live_server(copy.parent, server__chunk_lines=5) as server:
        assert not (copy / RESTORED).exists()
        mine, theirs = server.worker(), HandWorker(server, "worker_of_before")
        lease = mine.lease()
        assert lease["chunk_id"] == of_before["chunk_id"]
        assert lease["token"] > of_before["token"] + chunks.LEAP / 2
        assert theirs.record(of_before, [1], status=409)["error"]["code"] == "stale_lease"
        mine.finish(lease)
        done = server.until(batch_id, "completed")
        assert [line["custom_id"] for line in server.content(done["output_file_id"])] == [f"r{i}" for i in range(5)]
    with live_server(copy.parent, server__chunk_lines=5) as server:
        assert _chunk(server, lease["chunk_id"])["token"] == lease["token"], "a later start is no restore"


def test_work_that_was_under_way_in_the_copy_begins_anew_on_both_databases(database_url: str, tmp_path: Path) -> None:
    """The copy was made by other means, and the file by the operator."""
    flags: dict[str, Any] = {"server__database_url": database_url, "server__chunk_lines": 5, "server__lease_s": 3600}
    with live_server(tmp_path, **flags) as server:
        batch_id = server.submit(requests(5))["id"]
        worker = server.worker()
        of_before = worker.lease()
        worker.record(of_before, [1, 2])
    (tmp_path / "data" / RESTORED).touch()
    with live_server(tmp_path, **flags) as server:
        found = _chunk(server, of_before["chunk_id"])
        assert (found["state"], found["attempts"], found["completed"]) == ("pending", 0, 2)
        assert HandWorker(server, worker.worker_id).record(of_before, [3], status=409)["error"]["code"] == "stale_lease"
        lease = server.worker().lease()
        assert lease["done"] == [1, 2]
        HandWorker(server, worker.worker_id).finish(lease)
        assert server.until(batch_id, "completed")["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
