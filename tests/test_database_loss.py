"""The database goes away and comes back: callers are told to wait, nothing is lost, and every loop goes on by itself."""

from __future__ import annotations

import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection

from batchsched import exposed
from batchsched.cli.main import main
from batchsched.errors import DatabaseBusy, DatabaseUnavailable, InvalidConfiguration, StorageFull
from batchsched.queue import chunks, ledger
from batchsched.queue.database import Database, translated
from batchsched.server.lifecycle import Lifecycle
from batchsched.server.runtime import Runtime
from tests.live import LiveServer, live_server, requests, wait_for
from tests.postgres import PostgresServer, database_in

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def own(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that this test may stop; it syncs as one in production does."""
    server = PostgresServer(durable=True)
    server.start()
    server.make_template()
    yield server
    server.remove()


def _refused(server: LiveServer) -> None:
    for method, path, body in (
        ("GET", "/v1/batches", None),
        ("GET", "/readyz", None),
        ("GET", "/metrics", None),
        ("POST", "/v1/batches", {"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}),
    ):
        answer = server.http.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable"), answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert "socket" not in answer.text  # where the database lives is no caller's business
    assert server.http.get("/livez").status_code == 200


@pytest.mark.slow
def test_a_crash_and_restart_of_the_database_is_survived(own: PostgresServer, tmp_path: Path) -> None:
    with own.fresh() as url, live_server(tmp_path, server__database_url=url, server__chunk_lines=5) as server:
        batch_id = server.submit(requests(10))["id"]
        server.until(batch_id, "in_progress")
        worker = server.worker()
        lease = worker.lease()
        worker.record(lease, [1, 2])
        own.stop(signal.SIGQUIT)
        _refused(server)
        assert worker.record(lease, [3], status=503)["error"]["code"] == "database_unavailable"
        own.start()
        leadership = server.runtime.leadership
        wait_for(lambda: leadership.leading() and leadership.epoch == 2)
        worker.record(lease, [3, 4, 5])
        assert worker.drain(batch_id)["request_counts"] == {"total": 10, "completed": 10, "failed": 0}


@pytest.mark.slow
def test_a_database_that_goes_away_while_a_server_starts_is_waited_for(
    own: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when it was opened; the work of a start needs it again."""
    recover, keep_house = Runtime.recover, Lifecycle.start

    def without_database(runtime: Runtime) -> None:
        own.stop(signal.SIGQUIT)
        recover(runtime)

    def with_database(lifecycle: Lifecycle) -> None:
        own.start()
        keep_house(lifecycle)

    monkeypatch.setattr(Runtime, "recover", without_database)
    monkeypatch.setattr(Lifecycle, "start", with_database)
    with own.fresh() as url, live_server(tmp_path, server__database_url=url) as server:
        wait_for(server.runtime.leadership.leading)
        assert server.worker().drain(server.submit(requests(3))["id"])["status"] == "completed"


def test_connections_that_were_cut_are_replaced_unnoticed(postgres: PostgresServer, postgres_url: str) -> None:
    database = Database(postgres_url)
    for _ in range(3):
        postgres.terminate(database_in(postgres_url))
        with database.write() as connection:
            ledger.bump(connection, exposed.STALE_COMPLETIONS)
        with database.read() as connection:
            assert ledger.counted(connection)
    database.close()


def test_a_connection_cut_in_the_middle_is_a_clear_error_and_changes_nothing(postgres: PostgresServer, postgres_url: str) -> None:
    database = Database(postgres_url)

    def step() -> None:
        with database.write() as connection:
            ledger.bump(connection, exposed.STALE_COMPLETIONS)
            postgres.terminate(database_in(postgres_url))
            ledger.bump(connection, exposed.STALE_COMPLETIONS)

    with pytest.raises(DatabaseUnavailable):
        step()
    with database.read() as connection:
        assert ledger.counted(connection) == {}
    database.close()


def test_a_transaction_that_stands_still_or_runs_too_long_is_ended(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '50ms'")
        with pytest.raises(DatabaseUnavailable), translated():
            connection.exec_driver_sql("SELECT pg_sleep(20)")
    with database.read() as connection:
        named = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("application_name", "TimeZone")}
        limits = [connection.exec_driver_sql(f"SHOW {name}_timeout").scalar_one() for name in ("statement", "lock")]
    assert named == {"application_name": "batchsched", "TimeZone": "UTC"}
    assert limits == ["30s", "15s"]
    database.close()


def test_a_full_disk_under_postgresql_is_told_as_one(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(StorageFull), database.write() as connection:
        connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$")
    database.close()


def test_what_goes_wrong_under_a_hot_statement_is_told_as_under_any_other(postgres: PostgresServer, postgres_url: str) -> None:
    database = Database(postgres_url)

    def claim(connection: Connection) -> None:
        chunks.claim(connection, "b", worker_id="w", pool="p", limit=1, now=NOW, lease_s=60)

    def cut(block: Callable[[], AbstractContextManager[Connection]]) -> None:
        with block() as connection:
            claim(connection)
            postgres.terminate(database_in(postgres_url))
            claim(connection)

    for block in (database.write, database.statement):
        with pytest.raises(DatabaseUnavailable):
            cut(block)
        with block() as connection:
            claim(connection)

    with database.write() as other, database.write() as connection:
        other.exec_driver_sql("LOCK TABLE chunks")
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(DatabaseBusy), translated():
            claim(connection)
    database.close()


def _crowd(database: Database) -> None:
    with database.write() as connection:
        ledger.bump_each(connection, {f"{i}" + "x" * 4000: 1 for i in range(200)})


def test_a_full_disk_under_sqlite_is_told_as_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "batchsched.db")
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100")
    with pytest.raises(StorageFull):
        _crowd(database)
    database.close()


def test_a_limit_on_sqlites_files_is_told_and_passes(tmp_path: Path) -> None:
    database = Database(tmp_path / "batchsched.db")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "batchsched.db-wal").stat().st_size + 20_000, before[1]))
    try:
        with pytest.raises(DatabaseUnavailable):
            _crowd(database)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with database.read() as connection:
        assert ledger.counted(connection) == {}
    _crowd(database)
    database.close()


def test_a_program_that_keeps_sqlites_file_locked_is_told(tmp_path: Path) -> None:
    database = Database(tmp_path / "batchsched.db")
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(tmp_path / "batchsched.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            _crowd(database)
    _crowd(database)
    database.close()


@pytest.mark.slow
def test_what_is_not_there_or_not_an_address_is_said_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        Database(f"postgresql://nobody@/x?host={tmp_path}")
    for wrong in ("mysql://u:hidden@h/d", "nonsense", "postgresql://h:port/x"):
        with pytest.raises(InvalidConfiguration, match=r"server\.database_url") as caught:
            Database(wrong)
        assert "hidden" not in str(caught.value)
    flags = ["--config", str(tmp_path / "c.toml")]
    (tmp_path / "c.toml").write_text(f"[server]\ndatabase_url = 'postgresql://u:hidden@/x?host={tmp_path}'\nport = 0\n")
    with pytest.raises(SystemExit) as stop:
        main(["serve", *flags])
    said = capsys.readouterr().err
    assert stop.value.code == 75, said
    assert "does not answer" in said
    assert "hidden" not in said


def test_a_start_that_fails_after_all_was_opened_ends_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """uvicorn would end the process by a code that says that something was not found."""

    def fail(_: Lifecycle) -> None:
        raise DatabaseUnavailable("The database went away.")

    monkeypatch.setattr(Lifecycle, "start", fail)
    (tmp_path / "c.toml").write_text(f"[server]\ndata_dir = '{tmp_path / 'data'}'\nport = 0\n[planner]\nsolver = 'greedy'\n")
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--config", str(tmp_path / "c.toml")])
    assert stop.value.code == 75
    assert "Error: The database went away." in capsys.readouterr().err
