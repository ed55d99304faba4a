"""`/readyz`: a server that cannot do its work says so, and says it no longer once it can."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from batchsched.disk import writable
from batchsched.errors import StorageUnavailable
from batchsched.queue.pending import lacking
from tests.live import LiveServer, live_server, wait_for
from tests.test_migrations import REVISIONS


def _said(server: LiveServer) -> tuple[int, str]:
    answer = server.http.get("/readyz")
    assert server.http.get("/livez").status_code == 200
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def _pretend(server: LiveServer, revision: str) -> None:
    with server.runtime.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_an_older_schema_is_told_and_a_newer_one_is_an_upgrade_under_way(database_url: str, tmp_path: Path) -> None:
    with live_server(tmp_path, server__database_url=database_url) as server:
        assert _said(server) == (200, "")
        _pretend(server, REVISIONS[-3])
        with server.runtime.database.read() as connection:
            assert lacking(connection) == REVISIONS[-2:]
        assert _said(server) == (503, "not_ready")
        _pretend(server, "9999")
        assert _said(server) == (200, "")
        _pretend(server, REVISIONS[-1])


def test_a_folder_that_went_away_is_told_until_it_is_back(tmp_path: Path) -> None:
    with live_server(tmp_path, server__store_url=f"file://{tmp_path / 'store'}") as server:
        (tmp_path / "store").rename(tmp_path / "away")
        answer = server.http.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        assert str(tmp_path) not in answer.text  # where it lies is no caller's business
        (tmp_path / "away").rename(tmp_path / "store")
        assert _said(server) == (200, "")


def test_a_folder_is_tried_without_leaving_anything(tmp_path: Path) -> None:
    writable(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageUnavailable, match="No such file"):
        writable(tmp_path / "none")


def test_a_loop_that_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(tmp_path) as server:
        monkeypatch.setattr(threading, "excepthook", lambda _: None)  # what ends it is no error of this test
        monkeypatch.setattr(server.runtime.lifecycle, "_leading", lambda: 1 / 0)
        server.runtime.lifecycle.poke()
        wait_for(lambda: not server.runtime.lifecycle.alive)
        assert _said(server) == (503, "not_ready")
