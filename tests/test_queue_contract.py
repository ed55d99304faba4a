"""What the queue promises, on both databases alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from batchsched.queue import batches
from batchsched.queue.database import Database
from tests.live import live_server, requests

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def add_batch(database: Database, batch_id: str = "b", **values: object) -> None:
    """A batch in progress."""
    row = {
        "id": batch_id, "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h", "model": "tiny",
        "state": "in_progress", "created_at": NOW, "deadline_at": NOW + timedelta(hours=1), "meta": {}, "options": {},
    }  # fmt: skip
    with database.write() as connection:
        batches.add(connection, tenant="t", **{**row, **values})


def test_instants_are_aware_and_json_is_what_it_was(database: Database) -> None:
    elsewhere = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    add_batch(database, created_at=elsewhere, meta={"a": "ü\u0000\U0001f33f", "b": [1, 2.5, None]}, errors=None)
    with database.read() as connection:
        row = batches.get(connection, "b", "t")
    assert row["created_at"] == elsewhere
    assert row["created_at"].tzinfo is UTC
    assert row["meta"] == {"a": "ü\u0000\U0001f33f", "b": [1, 2.5, None]}
    assert row["errors"] is None


def test_a_batch_runs_from_end_to_end(database_url: str, tmp_path: Path) -> None:
    with live_server(tmp_path, server__database_url=database_url) as server:
        batch_id = server.submit(requests(5))["id"]
        server.until(batch_id, "in_progress")
        done = server.worker().drain(batch_id)
        assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
        assert len(server.content(done["output_file_id"])) == 5
