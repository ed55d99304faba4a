"""Logs as JSON: every line of real processes is one object, and the life of a batch can be read from them."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from batchsched.errors import InvalidConfiguration
from batchsched.logs import JsonLines
from batchsched.settings import load
from tests.live import HTTP, wait_for
from tests.processes import Stage, end, tagged


def _events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if not line.startswith("http://")]  # but the URL


@pytest.mark.slow
def test_the_life_of_a_batch_stands_in_the_logs_of_server_and_worker(tmp_path: Path) -> None:
    with Stage(tmp_path, chunk_lines=4, more="[logs]\nformat = 'json'\n") as stage:
        server = stage.server()
        stage.engine()
        worker = stage.worker()
        file = HTTP.post(f"{stage.url}/v1/files", files={"file": ("f", tagged(8, "x", "hush"))}, data={"purpose": "batch"}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = HTTP.post(f"{stage.url}/v1/batches", json=body).json()["id"]
        wait_for(lambda: HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()["status"] == "completed")
        end(worker)
        end(server)
        said = [one for one in _events(tmp_path / "server.log") if one.get("batch_id") == batch_id]
        assert [one["state"] for one in said if "chunk_id" not in one] == ["in_progress", "completed"]
        of_chunks = [one for one in said if "chunk_id" in one]
        assert sorted(one["state"] for one in of_chunks) == ["done", "done", "leased", "leased"]
        assert {one["pool"] for one in of_chunks} == {"local"}
        (worker_id,) = {one["worker_id"] for one in of_chunks}
        done = [one for one in _events(tmp_path / "worker.log") if one.get("batch_id") == batch_id]
        assert {(one["chunk_id"], one["worker_id"]) for one in done} == {(one["chunk_id"], worker_id) for one in of_chunks}
        assert all(one.keys() >= {"time", "level", "logger", "message"} for one in said + done)
        assert "hush" not in (tmp_path / "server.log").read_text() + (tmp_path / "worker.log").read_text()


def test_an_event_is_one_line_whatever_it_says() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("two\nlines of %s", "Zürich", extra={"batch_id": "b", "other": "is not told"})
    try:
        raise ValueError("no\nmore")
    except ValueError:
        log.exception("It failed.")
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["message"], first["level"], first["batch_id"], "other" in first) == (
        "two\nlines of Zürich",
        "warning",
        "b",
        False,
    )
    assert first["time"].endswith("+00:00")
    assert "ValueError: no\nmore" in second["error"]


def test_a_form_that_is_not_known_is_refused(tmp_path: Path) -> None:
    assert load(env={"BATCHSCHED_LOGS_FORMAT": "json"}, flags={}).settings.logs.format == "json"
    (tmp_path / "c.toml").write_text("[logs]\nformat = 'xml'\n")
    with pytest.raises(InvalidConfiguration, match=r"logs\.format"):
        load(tmp_path / "c.toml", env={})
