"""docs/deploy/backup.md and upgrade.md, followed word by word with real processes and work under way."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import MetaData, insert

from batchsched.cli.main import main
from batchsched.errors import DamagedDatabase, DatabaseUnavailable, StorageUnavailable
from batchsched.queue import backup
from batchsched.queue.database import Database, upgrade
from batchsched.queue.pending import pending
from batchsched.queue.sqlite import Sqlite
from tests.deploy_site import ComposeSite, Site, blocks
from tests.live import HTTP, live_server, requests, wait_for
from tests.postgres import PostgresServer, find_binaries
from tests.processes import Stage, tagged
from tests.test_migrations import NOW, REVISIONS, SEEDS


@pytest.fixture(params=["sqlite", "postgresql", "compose"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """With systemd and the server on either database, and by compose; PostgreSQL's is named as the page has it."""
    if request.param == "sqlite":
        with Stage(tmp_path, delay_s=0.3, chunk_lines=5) as stage:
            yield Site(stage, {}, {})
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    server.execute("DROP DATABASE IF EXISTS batchsched WITH (FORCE)")
    server.execute("DROP ROLE IF EXISTS batchsched")
    server.execute("CREATE ROLE batchsched SUPERUSER LOGIN")  # as the image of compose makes it
    server.execute("CREATE DATABASE batchsched")
    path = f"{find_binaries()}:/usr/local/bin:/usr/bin:/bin"
    env = {"PGHOST": str(server.folder), "PGUSER": "postgres", "PATH": path}
    secrets = {"BATCHSCHED_SERVER_DATABASE_URL": server.url("batchsched")}
    with Stage(tmp_path, delay_s=0.3, chunk_lines=5) as stage:
        yield {"postgresql": Site, "compose": ComposeSite}[request.param](stage, env, secrets)
    server.execute("DROP DATABASE IF EXISTS batchsched WITH (FORCE)")
    server.execute("DROP ROLE batchsched")


def _submit(url: str, data: bytes) -> str:
    file = HTTP.post(f"{url}/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).raise_for_status().json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(HTTP.post(f"{url}/v1/batches", json=body).raise_for_status().json()["id"])


def _batch(url: str, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = HTTP.get(f"{url}/v1/batches/{batch_id}").raise_for_status().json()
    return found


def _completed(url: str, batch_id: str) -> dict[str, Any] | None:
    found = _batch(url, batch_id)
    return found if found["status"] == "completed" else None


def _bill(url: str, batch_id: str) -> Any:
    report = HTTP.get(f"{url}/v1/batchsched/batches/{batch_id}/report").raise_for_status().json()
    return {name: report[name] for name in ("requests", "energy_j", "operational_g", "saved_g")}


def _hold(url: str, batch_id: str, engine: subprocess.Popen[bytes]) -> None:
    """The engine answers no more once a part of the batch is done."""
    wait_for(lambda: _batch(url, batch_id)["request_counts"]["completed"] >= 25)
    engine.send_signal(signal.SIGSTOP)


@pytest.mark.slow
def test_a_backup_taken_while_work_goes_on_is_restored_and_nothing_is_lost(site: Site, request: pytest.FixtureRequest) -> None:
    stage, kind = site.stage, request.node.callspec.params["site"]
    engine = stage.engine()
    site.systemctl("start", site.server)
    site.systemctl("start", site.worker)
    ended = _submit(stage.url, tagged(6, "old"))
    wait_for(lambda: _completed(stage.url, ended))
    bill = _bill(stage.url, ended)
    answers = HTTP.get(f"{stage.url}/v1/files/{_batch(stage.url, ended)['output_file_id']}/content").text
    going = _submit(stage.url, tagged(60))
    wait_for(lambda: _batch(stage.url, going)["request_counts"]["completed"] >= 10)
    if kind == "compose":
        saving, restoring = blocks("backup.md", "Compose")
        site.follow(saving)  # the server is away meanwhile, the worker is not
        wait_for(lambda: _batch(stage.url, going)["request_counts"]["completed"] >= 25)
    else:
        (saving, nightly), by_database = blocks("backup.md", "Back up"), blocks("backup.md", "Restore")
        restoring = by_database[kind == "postgresql"]
        with ThreadPoolExecutor() as pool:  # however long the backup takes here, the batch is not over before it is
            held = pool.submit(_hold, stage.url, going, engine)
            assert "holds the database and" in site.follow(saving)
            held.result()
        assert "holds the database and" in site.follow(nightly)
        assert _batch(stage.url, going)["request_counts"]["completed"] < 60, "the batch was over before the backup was"
    site.lose_everything()
    engine.send_signal(signal.SIGCONT)
    if kind != "sqlite":
        request.getfixturevalue("postgres").execute("DROP DATABASE batchsched WITH (FORCE)")
    if kind == "compose":  # both volumes are there, and empty
        request.getfixturevalue("postgres").execute("CREATE DATABASE batchsched")
        site.state.mkdir()
    before = stage.computed()
    site.follow(restoring)
    if kind != "compose":
        site.systemctl("start", site.worker)
    assert not (site.data / "restored").exists(), "the server took it for any database"
    done = wait_for(lambda: _completed(stage.url, going))
    assert done["request_counts"] == {"total": 60, "completed": 60, "failed": 0}
    lines = HTTP.get(f"{stage.url}/v1/files/{done['output_file_id']}/content").text.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(f"r{i}" for i in range(60))
    assert _bill(stage.url, ended) == bill
    assert HTTP.get(f"{stage.url}/v1/files/{_batch(stage.url, ended)['output_file_id']}/content").text == answers
    again = stage.computed() - before
    assert not {tag for tag in again if tag.startswith("old")}, "what had ended runs again"
    assert sum(again.values()) <= 60 - 10, "what was acknowledged before the backup runs again"


@pytest.mark.slow
def test_an_upgrade_by_the_page_with_work_under_way(tmp_path: Path) -> None:
    with Stage(tmp_path, delay_s=0.2, chunk_lines=5) as stage:
        site = Site(stage, {}, {})
        stage.engine()
        site.systemctl("start", site.server)
        site.systemctl("start", site.worker)
        batch_id = _submit(stage.url, tagged(40))
        wait_for(lambda: _batch(stage.url, batch_id)["request_counts"]["completed"] >= 5)
        (lines,) = blocks("upgrade.md", "One server")
        assert "Nothing to do" in site.follow(lines)
        (lines,) = blocks("upgrade.md", "Workers")
        site.follow(lines)
        done = wait_for(lambda: _completed(stage.url, batch_id))
        assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
        assert httpx.get(f"{stage.url}/metrics").text.count("batchsched_chunk_failures_total") == 0


@pytest.mark.parametrize("revision", [REVISIONS[0], REVISIONS[4], REVISIONS[11], REVISIONS[-2]])
def test_work_of_an_older_schema_is_done_after_the_upgrade(tmp_path: Path, revision: str) -> None:
    data, whole = tmp_path / "data", requests(2)
    where = data / "batchsched.db"
    old = Sqlite(where)
    upgrade(old.writer, revision)
    metadata = MetaData()
    metadata.reflect(old.writer)
    chunk = {"lines": 2, "byte_end": len(whole), "state": "pending", "lease_until": None, "worker_id": None, "token": 3}
    fresh = {"completed": 0, "failed": 0, "suspects": [], "result_bytes": 0}
    seeds = {
        "files": {**SEEDS["files"], "id": "file-1", "purpose": "batch", "bytes": len(whole)},
        "batches": {
            **SEEDS["batches"],
            "input_file_id": "file-1",
            "model": "tiny",
            "deadline_at": NOW.replace(year=2099),
            "completed": 0,
        },
        "chunks": {**SEEDS["chunks"], **chunk, **fresh, "attempts": 0},
    }
    with old.writer.begin() as connection:
        for table in (metadata.tables[name] for name in ("files", "batches", "chunks")):
            connection.execute(
                insert(table).values({name: value for name, value in seeds[table.name].items() if name in table.c})
            )
    old.close()
    (data / "files").mkdir()
    (data / "files/file-1").write_bytes(whole)
    assert pending(where) == REVISIONS[REVISIONS.index(revision) + 1 :]
    with live_server(tmp_path) as server:
        done = server.worker().drain("b")
        assert done["request_counts"]["completed"] == 2
        assert [line["custom_id"] for line in server.content(done["output_file_id"])] == ["r0", "r1"]
    assert pending(where) == []


def _run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    code = stop.value.code
    assert isinstance(code, int)
    return code


def test_migrate_says_what_it_would_do_and_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[server]\ndata_dir = '{tmp_path / 'data'}'\n")
    assert _run("migrate", "--config", str(config)) == DatabaseUnavailable.exit_code
    assert "There is no database" in capsys.readouterr().err
    old = Sqlite(tmp_path / "data" / "batchsched.db")
    upgrade(old.writer, REVISIONS[-3])
    old.close()
    assert _run("migrate", "--dry-run", "--config", str(config)) == 0
    assert capsys.readouterr().out == f"To do: {', '.join(REVISIONS[-2:])}.\n"
    assert _run("migrate", "--config", str(config)) == 0
    assert capsys.readouterr().out == f"Done: {', '.join(REVISIONS[-2:])}.\n"
    assert _run("migrate", "--config", str(config)) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_a_downgrade_is_refused_and_says_the_way_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[server]\nport = 0\ndata_dir = '{tmp_path / 'data'}'\n")
    opened = Database(tmp_path / "data" / "batchsched.db")
    with opened.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    for command in ("serve", "migrate"):
        assert _run(command, "--config", str(config)) == DamagedDatabase.exit_code
        said = capsys.readouterr().err
        assert "made by a newer batchsched" in said
        assert "restore the backup from before the upgrade" in said


def test_a_backup_without_all_files_is_refused_and_one_into_the_same_folder_copies_what_is_new(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    target.mkdir()
    with live_server(tmp_path) as server:
        server.upload(requests(2))
        second = server.upload(requests(3))
        data = tmp_path / "data"
        assert backup.of_sqlite(data / "batchsched.db", data, target)[:2] == (2, 3)  # with the mark of the store
        server.upload(requests(4))
        server.http.delete(f"/v1/files/{second}").raise_for_status()
        assert backup.of_sqlite(data / "batchsched.db", data, target)[:2] == (2, 1)
        held = {path.name: path.read_bytes() for path in (target / "files").iterdir()}
        assert held == {path.name: path.read_bytes() for path in (data / "files").iterdir()}
        third = server.upload(requests(5))
        (data / "files" / third).unlink()
        with pytest.raises(StorageUnavailable, match=f"files/{third}"):
            backup.of_sqlite(data / "batchsched.db", data, target)
    restored = Database(target / "batchsched.db")
    with restored.read() as connection:
        assert set(backup.named(connection)) == {f"files/{name}" for name in held}
    restored.close()


def test_a_dry_run_copies_nothing_and_an_object_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[server]\ndata_dir = '{tmp_path / 'data'}'\nstore_url = 's3://bucket/x'\n")
    assert _run("backup", str(tmp_path / "copy"), "--dry-run", "--config", str(config)) == 0
    assert "s3://bucket/x, which has backups of its own" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
