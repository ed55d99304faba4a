"""What is kept and for how long: files, batches, keys; deletion on request; and no prompt where it does not belong."""

from __future__ import annotations

import math
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchsched.client import Client
from batchsched.clock import ManualClock
from batchsched.errors import Conflict, InvalidConfiguration, NotFound
from batchsched.queue import books, files, forgotten, idempotency, ledger, retention
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.settings import Retention, load
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests, wait_for
from tests.processes import Stage, end
from tests.test_newest import AT, enter, span
from tests.test_queue_contract import add_batch

pytestmark = pytest.mark.slow

DAY_S = 86400


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Generator[LiveServer]:
    with live_server(tmp_path, server__database_url=database_url) as live:
        yield live


def _run(server: LiveServer, file_id: str, **more: Any) -> dict[str, Any]:
    """A batch of a file, done: one line answered, one failed."""
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    batch_id = server.post("/v1/batches", body)["id"]
    worker = server.worker()
    lease = worker.lease()
    worker.record(lease, [1])
    worker.record(lease, [2], ok=False)
    return server.until(batch_id, "completed")


def _stored(server: LiveServer) -> set[str]:
    return {path.name for path in (server.runtime.store.root / "files").iterdir()}  # type: ignore[attr-defined]


def test_deleting_a_batch_takes_its_content_and_leaves_its_costs(server: LiveServer) -> None:
    file_id = server.upload(requests(2))
    batch = _run(server, file_id, metadata={"secret": "project"})
    held = {file_id, batch["output_file_id"], batch["error_file_id"]}
    assert held <= _stored(server)
    carbon = batch["batchsched"]["carbon"]
    with Client(server.url, "") as client:
        client.batches.delete(batch["id"])
        client.batches.delete(batch["id"])  # twice does no harm
        bare = client.batches.retrieve(batch["id"])
        assert (bare.output_file_id, bare.error_file_id, bare.metadata) == (None, None, {})
        assert bare.batchsched.erased_at is not None
        for gone in held:
            with pytest.raises(NotFound):
                client.files.retrieve(gone)
        with pytest.raises(Conflict, match="deleted"):
            client.batches.retry(batch["id"])
        assert client.batches.report(batch["id"]).everything["batch_id"] == batch["id"]
    assert held.isdisjoint(_stored(server))
    assert server.http.get(f"{PREFIX}/batches/{batch['id']}/results").text == ""
    assert server.http.get(f"{PREFIX}/batches/{batch['id']}/plot").status_code == 200
    after = server.batch(batch["id"])
    assert after["batchsched"]["carbon"] == carbon
    assert after["request_counts"] == batch["request_counts"]
    with server.runtime.database.read() as connection:
        assert ledger.of_batch(connection, batch["id"])


def test_an_input_that_another_batch_has_stays_until_the_last_of_them_is_deleted(server: LiveServer) -> None:
    file_id = server.upload(requests(2))
    first, second = _run(server, file_id)["id"], _run(server, file_id)["id"]
    assert server.http.delete(f"{PREFIX}/batches/{first}").json() == {"id": first, "object": "batch", "deleted": True}
    assert server.get(f"/v1/files/{file_id}")
    server.http.delete(f"{PREFIX}/batches/{second}")
    assert server.http.get(f"/v1/files/{file_id}").status_code == 404


def test_errors_go_with_a_batch_that_failed_and_an_open_one_is_not_deleted(server: LiveServer) -> None:
    bad = server.submit(b'{"custom_id": "very private"}\n')["id"]
    assert server.until(bad, "failed")["errors"]
    server.http.delete(f"{PREFIX}/batches/{bad}")
    assert server.batch(bad)["errors"] is None
    running = server.submit(requests(1))["id"]
    answer = server.http.delete(f"{PREFIX}/batches/{running}")
    assert (answer.status_code, answer.json()["error"]["hint"]) == (409, "Cancel it first, and wait for its end.")
    assert server.http.delete(f"{PREFIX}/batches/batch_nowhere").status_code == 404


def test_a_batch_takes_no_file_along_that_is_not_its_own(server: LiveServer) -> None:
    """It may name any id, and fails: another tenant's file, and one that is no input, stay."""
    with server.runtime.database.write() as connection:
        row = {"purpose": "batch", "filename": "f", "bytes": 0, "sha256": "", "created_at": server.runtime.clock.now()}
        files.add(connection, tenant="alice", id="file-alice", **row)
    for file_id in ("file-alice", server.upload(b"x", purpose="assistants")):
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch_id = server.post("/v1/batches", body)["id"]
        server.until(batch_id, "failed")
        assert server.http.delete(f"{PREFIX}/batches/{batch_id}").status_code == 200
        with server.runtime.database.read() as connection:
            assert files.get(connection, file_id, ANY)


def test_results_of_every_round_are_deleted(server: LiveServer) -> None:
    batch = _run(server, server.upload(requests(2)))
    server.post(f"{PREFIX}/batches/{batch['id']}/retry", {})
    again = server.worker().drain(batch["id"])
    assert again["output_file_id"] != batch["output_file_id"]
    server.http.delete(f"{PREFIX}/batches/{batch['id']}")
    assert not {batch["output_file_id"], batch["error_file_id"], again["output_file_id"]} & _stored(server)


def test_lives_are_as_configured_and_a_client_may_only_ask_for_less(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    text = BASIC + "[retention]\ninputs_days = 2\noutputs_days = 1\n"
    with live_server(tmp_path, text, clock=clock) as server:
        long = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(20 * DAY_S)}
        ids = {}
        for name, fields in {"plain": {}, "long": long, "short": {**long, "expires_after[seconds]": "3600"}}.items():
            answer = server.http.post("/v1/files", files={"file": ("f", requests(2))}, data={"purpose": "batch", **fields})
            ids[name] = answer.json()["id"]
        lives = {name: (file := server.get(f"/v1/files/{each}"))["expires_at"] - file["created_at"] for name, each in ids.items()}
        assert lives == {"plain": 2 * DAY_S, "long": 2 * DAY_S, "short": 3600}
        batch = _run(server, ids["plain"], output_expires_after={"anchor": "created_at", "seconds": 20 * DAY_S})
        output = server.get(f"/v1/files/{batch['output_file_id']}")
        assert output["expires_at"] - output["created_at"] == DAY_S
        clock.advance(DAY_S + 1)
        wait_for(lambda: server.http.get(f"/v1/files/{batch['output_file_id']}").status_code == 404)
        clock.advance(DAY_S)
        wait_for(lambda: server.http.get(f"/v1/files/{ids['plain']}").status_code == 404)
        wait_for(lambda: not _stored(server))
        assert server.batch(batch["id"])["status"] == "completed"


def test_ended_batches_go_after_their_days_with_all_that_points_to_them(tmp_path: Path, database_url: str) -> None:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    text = BASIC + "[retention]\nbatches_days = 40\n"
    with live_server(tmp_path, text, clock=clock, server__database_url=database_url) as server:
        old = _run(server, server.upload(requests(2)))["id"]
        body = {"input_file_id": server.upload(requests(2)), "endpoint": "/v1/chat/completions", "completion_window": "300d"}
        kept = server.http.post("/v1/batches", json=body, headers={"idempotency-key": "k"}).json()["id"]
        server.until(kept, "in_progress")
        clock.advance(41 * DAY_S)
        wait_for(lambda: server.http.get(f"/v1/batches/{old}").status_code == 404)
        assert server.batch(kept)["status"] == "in_progress"
        with server.runtime.database.read() as connection:
            assert not ledger.of_batch(connection, old)
            asked = idempotency.digest(connection, "default", body)
            assert idempotency.recall(connection, "default", "k", asked) is None
            assert files.get(connection, body["input_file_id"], ANY)  # over, but needed


def test_what_forgotten_batches_took_stays_in_the_sums(tmp_path: Path, database_url: str) -> None:
    """Meters add up before and after, to the joule; and batches that are kept bear no more of the idle time than before."""
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    text = BASIC + "[retention]\nbatches_days = 40\n"
    with live_server(tmp_path, text, clock=clock, server__database_url=database_url) as server:
        old = [_run(server, server.upload(requests(2)))["id"] for _ in range(2)]
        kept = server.submit(requests(2), completion_window="300d")["id"]
        worker = server.worker()
        worker.record(worker.lease(), [1])
        took = [server.get(f"{PREFIX}/batches/{batch_id}/report") for batch_id in (*old, kept)]
        metered_j = sum(each["energy_j"] for each in took) + 40.0
        part = {"batch_id": "", "started_at": "2026-01-01T00:10:00Z", "seconds": 1.0, "energy_source": "modelled"}
        parts = [{**part, "kind": "metered", "energy_j": metered_j}, {**part, "kind": "idle", "energy_j": 40.0}]
        server.post(f"{PREFIX}/workers/{worker.worker_id}/bye", {"spent": [{"number": 1, "parts": parts}]})
        wait_for(lambda: all(server.get(f"{PREFIX}/batches/{batch_id}/books")["entries"] for batch_id in old))
        (before,) = server.get(f"{PREFIX}/report/meters")["data"]
        idle = _idle_j(server, kept)
        assert (before["forgotten_j"], before["unaccounted_j"]) == pytest.approx((0.0, 0.0))
        clock.advance(41 * DAY_S)
        wait_for(lambda: all(server.http.get(f"/v1/batches/{batch_id}").status_code == 404 for batch_id in old))
        (after,) = server.get(f"{PREFIX}/report/meters")["data"]
        assert after["unaccounted_j"] == pytest.approx(0.0, abs=1e-6)
        assert after["forgotten_j"] == pytest.approx(sum(each["energy_j"] for each in took[:2]))
        assert after["charged_j"] == pytest.approx(took[2]["energy_j"])
        assert after["forgotten_g"] == pytest.approx(sum(each["operational_g"] for each in took[:2]))
        assert _idle_j(server, kept) == pytest.approx(idle)
        assert 0 < idle < 40
        hour = {"from": "2026-01-01T01:00:00Z", "to": "2026-01-01T02:00:00Z"}
        assert server.get(f"{PREFIX}/report/meters", **hour)["data"] == []


def _idle_j(server: LiveServer, batch_id: str) -> float:
    """A batch's share of its pool's idle energy."""
    beside = server.get(f"{PREFIX}/batches/{batch_id}/report")["beside"]
    return math.fsum(part["energy_j"] for part in beside if part["part"] == "idle")


def test_grams_that_no_book_has_are_unknown(database: Database) -> None:
    """And what several batches took in one hour is one sum, by meter; a batch that is forgotten twice counts once."""
    for n in range(2):
        add_batch(database, f"b{n}", state="completed", total=10)
    line = {
        "kind": "work", "pool": "local", "site": "s", "zone": "z", "hour": AT, "energy_source": "rapl", "pue": 1.0,
        "intensity_source": "", "signal": "", "why": "",
    }  # fmt: skip
    entries = [{**line, "energy_j": 600.0, "grams": 5.0}, {**line, "energy_j": 0.0, "grams": -1.0}]
    with database.write() as connection:
        for n, host_j in enumerate((7.0, 0.0)):
            enter(connection, span(5, batch_id=f"b{n}", host_j=host_j, host_source="modelled"))
            enter(
                connection, span(59, batch_id=f"b{n}", model="large" if n else "tiny")
            )  # ends in the next hour, began in this one
        books.open_at(connection, "b1", AT)
        books.add(connection, "b1", 0, entries, AT, None)
        for batch_id in ("b0", "b1", "b1"):
            retention.forget(connection, batch_id)
    with database.read() as connection:
        (row,) = forgotten.of_pools(connection, AT, AT + timedelta(hours=1))
        assert row == {"pool": "local", "energy_j": 4 * 600.0 + 7.0, "grams": pytest.approx(4.0), "unknown_j": 2 * 600.0 + 7.0}
        days = ledger.busy_of_days(connection, AT, AT + timedelta(days=1), [])
        assert sum(row["busy_s"] for row in days if row["pool"] == "local") == 240.0
        assert sum(row["busy_s"] for row in days if row["model"] == "large") == 60.0
        assert forgotten.of_pools(connection, AT + timedelta(hours=1), AT + timedelta(hours=2)) == []


def test_lives_in_figures() -> None:
    assert Retention(inputs_days=0).input_life(None) is None
    assert Retention(inputs_days=0).input_life(60) == timedelta(seconds=60)
    assert Retention().output_life(None) == timedelta(days=30)


def test_a_budget_of_a_month_must_outlive_its_month(tmp_path: Path) -> None:
    path = tmp_path / "batchsched.toml"
    path.write_text("[retention]\nbatches_days = 10\n")
    with pytest.raises(InvalidConfiguration, match=r"retention\.batches_days"):
        load(path, env={})


@pytest.mark.slow
def test_no_prompt_and_no_answer_stands_in_a_log_or_in_the_metrics(tmp_path: Path) -> None:
    """The fake engine answers with the words of the prompt in reverse order, so one word finds both."""
    word = "Zwetschgenkuchen"
    data = requests(3).replace(b"say ", f"{word} ".encode())
    refused = requests(1).replace(b"say 0", f"{word} [[400]]".encode()).replace(b'"r0"', b'"bad"')
    broken = f'{{"custom_id": "x", "body": "{word}\n'.encode()
    with Stage(tmp_path) as stage:
        server = stage.server()
        stage.engine()
        worker = stage.worker()
        with httpx.Client(base_url=stage.url) as http:

            def batch(content: bytes) -> dict[str, Any]:
                file = http.post("/v1/files", files={"file": (f"{word}.jsonl", content)}, data={"purpose": "batch"}).json()
                fields = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "30s"}
                made = http.post("/v1/batches", json={**fields, "metadata": {"about": word}}).json()["id"]
                wait_for(lambda: http.get(f"/v1/batches/{made}").json()["status"] in {"completed", "failed"})
                found: dict[str, Any] = http.get(f"/v1/batches/{made}").json()
                return found

            done = batch(data + refused)
            assert word in http.get(f"/v1/files/{done['output_file_id']}/content").text
            assert done["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
            assert batch(broken)["status"] == "failed"
            assert word not in http.get("/metrics").text
        end(worker)
        end(server)
        logs = {name: (tmp_path / f"{name}.log").read_text() for name in ("server", "worker")}
    assert all(logs.values())
    assert not [name for name, text in logs.items() if word in text]
