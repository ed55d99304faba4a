"""What was kept for a batch: each kind where its bytes and its time are known, shared among those that it was kept for."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from batchsched.carbon.storage import Stored, keeping
from batchsched.clock import ManualClock
from batchsched.fleet import kv_offload_gib
from batchsched.queue import batches, files, retention
from batchsched.queue.tables import tombstones
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, requests

DAY_S = 86400.0
SSD_W_PER_BYTE = 0.0012 / 1e9
WEIGHTS = 3_000_000
CONFIG = """
[sites.home]
zone = "WORLD"
pue = 1.0
[pools.local]
gpu = "cpu"
[pools.caching]
gpu = "cpu"
models = ["tiny"]
engine_args = ["--kv-offloading-size", "16"]
[models.tiny]
path = "{path}"
[planner]
solver = "greedy"
"""


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Generator[LiveServer]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(WEIGHTS))
    clock = ManualClock(datetime(2026, 1, 1, 6, tzinfo=UTC))
    text = CONFIG.format(path=model)
    with live_server(tmp_path, text, clock=clock, server__database_url=database_url) as live:
        yield live


def ran(server: LiveServer, file_id: str, pool: str = "local") -> str:
    """The id of a batch that took ten seconds of a pool."""
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id: str = server.post("/v1/batches", body)["id"]
    worker = server.worker(pool)
    worker.finish(worker.lease())
    server.until(batch_id, "completed")
    return batch_id


def kept(server: LiveServer, batch_id: str, what: str) -> list[dict[str, Any]]:
    """The lines of a batch's report about one kind of what was kept."""
    parts = server.get(f"{PREFIX}/batches/{batch_id}/report")["beside"]
    return [part for part in parts if part["part"] == "storage" and part["how"].startswith(what)]


def joules(parts: list[dict[str, Any]]) -> list[float]:
    return [part["energy_j"] for part in parts]


def test_files_that_were_deleted_were_kept_until_then(server: LiveServer) -> None:
    batch_id = ran(server, server.upload(requests(2)))
    batch = server.batch(batch_id)
    size = {name: server.get(f"/v1/files/{batch[name]}")["bytes"] for name in ("input_file_id", "output_file_id")}
    server.advance(DAY_S)
    (output,) = kept(server, batch_id, "output file")
    assert output["energy_j"] == pytest.approx(size["output_file_id"] * SSD_W_PER_BYTE * DAY_S, rel=1e-3)
    assert output["operational_g"] > 0
    assert server.http.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200
    before = kept(server, batch_id, "input file")
    server.advance(DAY_S)
    assert server.http.delete(f"{PREFIX}/batches/{batch_id}").status_code == 200  # its output goes too, and its row forgets it
    server.advance(DAY_S)
    (gone,), (output,) = kept(server, batch_id, "input file"), kept(server, batch_id, "output file")
    assert joules([gone]) == joules(before)
    assert gone["energy_j"] == pytest.approx(size["input_file_id"] * SSD_W_PER_BYTE * DAY_S, rel=1e-3)
    assert "02 Jan 06:00, when it was deleted" in gone["how"]
    assert output["energy_j"] == pytest.approx(size["output_file_id"] * SSD_W_PER_BYTE * 2 * DAY_S, rel=1e-3)


def test_slices_share_what_was_kept_and_know_it_of_deleted_files_too(server: LiveServer) -> None:
    batch_id = ran(server, server.upload(requests(2)))
    server.advance(DAY_S)
    server.http.delete(f"{PREFIX}/batches/{batch_id}")
    whole = kept(server, batch_id, "")
    (part,) = server.get(f"{PREFIX}/report/slices", by="pool", batch_id=batch_id)["data"]
    assert len(whole) == 4  # two files, the weights, the database
    assert part["storage"]["energy_j"] == pytest.approx(sum(joules(whole)))
    assert part["storage"]["complete"]
    with server.runtime.database.write() as connection:
        connection.execute(tombstones.delete())  # as an earlier version left it
    (part,) = server.get(f"{PREFIX}/report/slices", by="pool", batch_id=batch_id)["data"]
    assert not part["storage"]["complete"]
    assert "files of 1 batch(es) are gone" in part["storage"]["how"]


def test_an_input_is_shared_by_its_batches(server: LiveServer) -> None:
    file_id = server.upload(requests(2))
    first = ran(server, file_id)
    server.advance(DAY_S)
    (alone,) = kept(server, first, "input file")
    second = ran(server, file_id)
    both = [*kept(server, first, "input file"), *kept(server, second, "input file")]
    assert joules(both) == [pytest.approx(alone["energy_j"] / 2)] * 2
    assert "shared by 2 batches" in both[0]["how"]


def test_what_nobody_asks_for_any_more_leaves_nothing(server: LiveServer) -> None:
    def remembered() -> set[str]:
        with server.runtime.database.read() as connection:
            return set(connection.scalars(select(tombstones.c.id)))

    unused = server.upload(requests(1))
    server.http.delete(f"/v1/files/{unused}")
    assert remembered() == set()
    file_id = server.upload(requests(2))
    batches = [ran(server, file_id), ran(server, file_id)]
    for batch_id in batches:
        server.http.delete(f"{PREFIX}/batches/{batch_id}")
    assert len(remembered()) == 3
    for left, batch_id in zip((2, 0), batches, strict=True):
        with server.runtime.database.write() as connection:
            retention.forget(connection, batch_id)
        assert len(remembered()) == left


def test_a_file_of_another_tenant_is_in_no_report(server: LiveServer) -> None:
    now = server.runtime.clock.now()
    with server.runtime.database.write() as connection:
        row = {"purpose": "batch", "filename": "f", "bytes": 5, "sha256": "", "created_at": now}
        files.add(connection, tenant="alice", id="file-alice", **row)
        batch = {
            "endpoint": "/v1/chat/completions", "input_file_id": "file-alice", "completion_window": "1h", "state": "failed",
            "created_at": now, "deadline_at": now, "meta": {}, "options": {},
        }  # fmt: skip
        batches.add(connection, tenant="bob", id="batch_spy", **batch)
        batches.add(connection, tenant="alice", id="batch_own", **batch)
        both = ["batch_spy", "batch_own"]
        (own,) = files.kept_for(connection, both)
        assert (own["batch_id"], own["bytes"], own["shared"], own["deleted_at"]) == ("batch_own", 5, 1, None)
        files.remove(connection, "file-alice", now)
        (own,) = files.kept_for(connection, both)
        assert (own["batch_id"], own["bytes"], own["deleted_at"]) == ("batch_own", 5, now)


def test_weights_are_kept_on_each_host_and_shared_by_busy_time(server: LiveServer) -> None:
    first, second = ran(server, server.upload(requests(2))), ran(server, server.upload(requests(3)))
    assert kept(server, first, "weights") == []  # the pool came this instant
    server.advance(3 * 3600)
    (one,) = kept(server, first, "weights")
    assert one["energy_j"] == pytest.approx(WEIGHTS * SSD_W_PER_BYTE * 3 * 3600 / 2)
    server.post(f"{PREFIX}/workers", {"pool": "local", "host": "another", "pid": 1})
    server.advance(2 * DAY_S)
    parts = [*kept(server, first, "weights"), *kept(server, second, "weights")]
    there_s = (18 + 15) * 3600  # from when each host was first seen, to the end of the one day on which they ran
    assert joules(parts) == [pytest.approx(WEIGHTS * SSD_W_PER_BYTE * there_s / 2)] * 2
    assert "on 2 host(s) of local, 3 MB (its folder)" in parts[0]["how"]
    assert len(parts[0]["how"]) < 150  # its sources stand apart
    assert "1.2 W a TB" in parts[0]["source"]


@pytest.mark.slow
def test_logs_are_kept_as_workers_told_of_them_last(server: LiveServer) -> None:
    def told(host: str, size: int) -> None:
        worker = server.post(f"{PREFIX}/workers", {"pool": "local", "host": host, "pid": 1})["worker_id"]
        for logs_bytes in (7, size):
            server.post(f"{PREFIX}/workers/{worker}/heartbeat", {"leases": [], "logs_bytes": logs_bytes})
        server.post(f"{PREFIX}/workers/{worker}/heartbeat", {"leases": []})  # one that does not know keeps what is known

    first, second = ran(server, server.upload(requests(2))), ran(server, server.upload(requests(3)))
    elsewhere = ran(server, server.upload(requests(2)), "caching")
    server.advance(60)
    assert kept(server, first, "logs") == []  # of an older worker nothing is known
    told("test", 2_000_000)
    told("test", 1_000_000)  # workers of one host share a folder
    told("another", 500_000)
    server.advance(DAY_S)
    parts = [*kept(server, first, "logs"), *kept(server, second, "logs")]
    byte_s = 2_000_000 * 18 * 3600 + 500_000 * (18 * 3600 - 60)
    assert joules(parts) == [pytest.approx(byte_s * SSD_W_PER_BYTE / 2)] * 2
    assert "on 2 host(s) of local, 2.5 MB" in parts[0]["how"]
    assert kept(server, elsewhere, "logs") == []


def test_the_database_and_the_archive_are_shared_by_all_that_ran(server: LiveServer) -> None:
    archive = server.runtime.settings.archive_folder() / "z"
    archive.mkdir(parents=True)
    (archive / "known.parquet").write_bytes(bytes(1_000_000))
    held_j = sum(file.stat().st_size for file in archive.parent.rglob("*") if file.is_file()) * SSD_W_PER_BYTE * 6 * 3600
    first = ran(server, server.upload(requests(2)))
    assert joules(kept(server, first, "archive of forecasts")) == [pytest.approx(held_j)]
    second = ran(server, server.upload(requests(2)), "caching")
    server.advance(60)  # for so long what a day took is kept in mind
    assert joules(kept(server, first, "archive of forecasts")) == [pytest.approx(held_j / 2, rel=0.01)]
    (log,) = kept(server, second, "database")
    assert log["energy_j"] > 50_000 * SSD_W_PER_BYTE * 3 * 3600


def test_results_of_chunks_are_kept_while_the_batch_runs(server: LiveServer) -> None:
    batch_id = server.submit(requests(2))["id"]
    worker = server.worker()
    lease = worker.lease()
    worker.record(lease, [1])
    server.advance(600)
    (part,) = kept(server, batch_id, "results of its chunks")
    assert part["energy_j"] > 0
    worker.finish(worker.lease())
    server.until(batch_id, "completed")
    whole = kept(server, batch_id, "results of its chunks")
    server.advance(DAY_S)
    assert kept(server, batch_id, "results of its chunks") == whole
    assert joules(whole) > [part["energy_j"]]


def test_offloaded_caches_are_counted_where_the_flags_ask_for_them(server: LiveServer) -> None:
    plain = ran(server, server.upload(requests(2)))
    caching = ran(server, server.upload(requests(2)), "caching")
    assert kept(server, plain, "offloaded") == []
    (part,) = kept(server, caching, "offloaded")
    life_s = timedelta(days=365 * 5).total_seconds()
    assert part["embodied_g"]["mid"] == pytest.approx(16 * 1.073741824 * 290 * 10 / life_s)
    assert (part["energy_j"], part["operational_g"]) == (0.0, None)
    assert "energy not known" in part["how"]


@pytest.mark.parametrize(
    ("flags", "gib"),
    [
        ([], None),
        (["--kv-offloading-size=4.5"], 4.5),
        (["--kv-offloading-size", "4", "-tp", "2", "--kv-offloading-size", "8"], 8.0),
        (["--kv-offloading-size"], None),
        (["--kv-offloading-backend", "lmcache"], None),
    ],
)
def test_how_much_memory_flags_reserve(flags: list[str], gib: float | None) -> None:
    assert kv_offload_gib(flags) == gib


def test_energy_that_nobody_published_is_unknown() -> None:
    memory = keeping(Stored("kv_cache", 16, 3600, "dram"), 400)
    assert memory
    assert (memory.energy_j, memory.operational_g) == (None, None)
    assert memory.embodied_g.low < memory.embodied_g.mid < memory.embodied_g.high
