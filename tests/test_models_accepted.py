"""Batches that accept several models, on a real server: which one serves them where, and what is written down of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from batchsched.cli.common import summary
from batchsched.cli.main import cli
from batchsched.client import Batch, Client
from batchsched.clock import ManualClock
from batchsched.executors.worker import run_worker
from batchsched.lines import renamed
from batchsched.queue import ledger
from batchsched.settings import Worker
from batchsched.units import iso
from batchsched.wire import PREFIX
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.live import HandWorker, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "DIRTY"
[sites.north]
zone = "CLEAN"
[pools.new]
gpu = "H100"
models = {on_new}
[pools.old]
site = "north"
gpu = "T4"
models = ["small"]
[models.big]
parameters_b = 8
[models.small]
parameters_b = 1
max_model_len = 2048
[forecast]
source = "file"
path = "forecast.csv"
[planner]
solver = "{solver}"
[server]
lease_s = 100000
"""
GRID = {"DIRTY": 500, "CLEAN": 20}
Accepts = dict[str, Any]


def _live(folder: Path, grid: dict[str, int] = GRID, solver: str = "greedy", on_new: str = '["big"]') -> Any:
    write_forecast(folder, grid)
    return live_server(folder, CONFIG.format(solver=solver, on_new=on_new), clock=ManualClock(NOW))


def write_forecast(folder: Path, grid: dict[str, int]) -> None:
    """Of 30 hours, the same in each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["# provider: test forecast", "zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised"]
    for zone, mean in grid.items():
        for hour in range(30):
            start = NOW + timedelta(hours=hour)
            span = f"{iso(start)},{iso(start + timedelta(hours=1))},{iso(NOW - timedelta(hours=1))}"
            rows.append(f"{zone},{span},{','.join([str(mean)] * 7)}")
    (folder / "forecast.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(params=["greedy", "cp-sat"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[LiveServer]:
    with _live(tmp_path, solver=request.param) as live:
        yield live


@pytest.fixture
def greedy(tmp_path: Path) -> Generator[LiveServer]:
    with _live(tmp_path) as live:
        yield live


def _submit(server: LiveServer, count: int = 200, **ours: Any) -> dict[str, Any]:
    batch_id = server.submit(requests(count, model="big"), batchsched={"deadline": "12h", **ours})["id"]
    found = server.until(batch_id, "in_progress", "failed")
    server.runtime.scheduler.plan_now()
    return found


def _workers(server: LiveServer, **how: Any) -> tuple[HandWorker, HandWorker]:
    """Of the new pool with the big model, and of the old one with the small model."""
    return server.worker("new", ready="big", **how), server.worker("old", ready="small", **how)


def test_a_batch_that_accepts_a_small_model_goes_to_the_old_gpu_where_that_is_cleaner(server: LiveServer) -> None:
    new, old = _workers(server, renames=True)
    batch = _submit(server, models=["small"])
    ours = batch["batchsched"]
    assert (batch["model"], ours["models"]) == ("big", ["big", "small"])
    assert ours["verdict"]["feasible"]
    assert "planned with the model small" in ours["verdict"]["reason"]
    assert ours["verdict"]["expected_grams"] < ours["verdict"]["expected_grams_run_now"] / 5
    told = " ".join(server.get(f"{PREFIX}/batches/{batch['id']}/explain")["sentences"])
    assert "on pool old with small in CLEAN" in told
    assert new.claim() == []
    (lease,) = old.claim()
    assert (lease["model"], lease["rename"]) == ("small", True)


def test_a_batch_that_accepts_one_model_stays_where_that_is_served(server: LiveServer) -> None:
    new, old = _workers(server, renames=True)
    batch = _submit(server)
    assert (batch["model"], batch["batchsched"]["models"]) == ("big", None)
    assert "model" not in batch["batchsched"]["verdict"]["reason"]
    assert old.claim() == []
    (lease,) = new.claim()
    assert (lease["model"], lease["rename"]) == ("big", False)


def test_the_small_model_is_not_taken_where_its_place_is_the_dirtier(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}) as server:
        new, old = _workers(server, renames=True)
        _submit(server, models=["small"])
        assert old.claim() == []
        assert len(new.claim()) == 1


def test_what_is_written_down_is_the_model_that_served(greedy: LiveServer) -> None:
    _, old = _workers(greedy, renames=True)
    batch = _submit(greedy, count=50, models=["small"])
    old.finish(old.lease())
    done = greedy.until(batch["id"], "completed")
    assert done["model"] == "big"
    with greedy.runtime.database.read() as connection:
        assert {row["model"] for row in ledger.of_batch(connection, batch["id"])} == {"small"}
        kinds = {model: ledger.answers(connection, "default", model, "/v1/chat/completions") for model in ("big", "small")}
        assert {model for model, rows in kinds.items() if rows} == {"small"}
        assert ledger.entries(connection, "small", "old")
        assert not ledger.entries(connection, "big", "old")
    report = greedy.get(f"{PREFIX}/batches/{batch['id']}/report")
    big = greedy.runtime.scheduler.observer.current_profiles()["big", "new"]
    assert report["baseline"]["terms"]["energy_j"] == pytest.approx(big.energy_j(50 * 3, 50 * 5))


def test_a_chunk_that_was_given_back_may_go_on_with_another_model(greedy: LiveServer, tmp_path: Path) -> None:
    new, old = _workers(greedy, renames=True)
    batch = _submit(greedy, count=50, models=["small"])
    lease = old.lease()
    old.record(lease, [1, 2, 3])
    greedy.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "shutdown"})
    greedy.post(f"{PREFIX}/workers/{old.worker_id}/bye")
    _turn_grid(tmp_path, greedy, {"DIRTY": 5, "CLEAN": 900})
    again = new.lease()
    assert (again["chunk_id"], again["model"], again["rename"]) == (lease["chunk_id"], "big", False)
    assert again["done"] == [1, 2, 3]
    new.messages = 30  # another span of time than what came before
    new.finish(again)
    greedy.until(batch["id"], "completed")
    with greedy.runtime.database.read() as connection:
        rows = ledger.of_batch(connection, batch["id"])
    assert {row["model"]: row["requests"] for row in rows} == {"small": 3, "big": 47}


def test_a_uniform_batch_stays_on_one_model_and_one_pool(tmp_path: Path) -> None:
    """On the cleanest that keeps the deadline; and wherever the grid turns, there is work there and nowhere else."""
    with _live(tmp_path, on_new='["big", "small"]') as server:
        new, old = _workers(server, renames=True)
        _submit(server, count=5000, models=["small"], uniform=True)
        for grid in ({"DIRTY": 5, "CLEAN": 900}, {"DIRTY": 900, "CLEAN": 5}) * 2:
            assert new.claim() == []
            assert new.ask()["prepare"] is None
            assert [lease["model"] for lease in old.claim()] == ["small"]
            _turn_grid(tmp_path, server, grid)


def test_a_uniform_batch_goes_on_with_the_model_that_it_began_with(tmp_path: Path) -> None:
    """Though the plan would have another, which is the only one that an older worker can have."""
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["big", "small"]') as server:
        _submit(server, count=5000, models=["small"], uniform=True)
        older = server.worker("new", ready="big")
        (first,) = older.claim()
        assert (first["model"], first["rename"]) == ("big", False)
        small = server.worker("new", ready="small", renames=True)
        assert small.claim() == []  # the plan that is out still says small
        server.runtime.scheduler.plan_now()
        assert small.ask()["prepare"] is None  # the plan has one engine of it now, and that is at work
        server.post(f"{PREFIX}/workers/{older.worker_id}/bye")
        assert small.ask()["prepare"] == "big"
        (second,) = server.worker("new", ready="big", renames=True).claim()
        assert (second["model"], second["rename"]) == ("big", False)


def test_a_retry_accepts_the_same_models(greedy: LiveServer, tmp_path: Path) -> None:
    new, old = _workers(greedy, renames=True)
    batch = _submit(greedy, count=50, models=["small"])
    _retry_one(greedy, old, batch["id"])
    assert not new.claim()  # it says what it has ready: a start would cost more than one request saves
    _turn_grid(tmp_path, greedy, {"DIRTY": 5, "CLEAN": 900})
    last = new.lease()
    assert (last["model"], last["rename"], len(last["done"])) == ("big", False, 49)
    new.finish(last)
    done = greedy.until(batch["id"], "completed")
    assert done["request_counts"] == {"total": 50, "completed": 50, "failed": 0}
    assert done["batchsched"]["models"] == ["big", "small"]
    with greedy.runtime.database.read() as connection:
        assert {row["model"] for row in ledger.of_batch(connection, batch["id"])} == {"small", "big"}


def test_a_retry_of_a_uniform_batch_goes_on_with_the_model_that_did_the_rest(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["big", "small"]') as server:
        batch = _submit(server, count=50, models=["small"], uniform=True)
        first = server.worker("new", ready="big")
        _retry_one(server, first, batch["id"])
        server.post(f"{PREFIX}/workers/{first.worker_id}/bye")
        server.runtime.scheduler.plan_now()
        assert server.worker("new", ready="small", renames=True).ask()["prepare"] == "big"
        (last,) = server.worker("new", ready="big", renames=True).claim()
        assert (last["model"], last["rename"], len(last["done"])) == ("big", False, 49)


def _retry_one(server: LiveServer, worker: HandWorker, batch_id: str) -> None:
    """The worker does all of the batch but one request, which fails, and is to be done again."""
    lease = worker.lease()
    worker.record(lease, [7], ok=False)
    worker.finish({**lease, "done": [7]})
    server.until(batch_id, "completed")
    server.post(f"{PREFIX}/batches/{batch_id}/retry", {"deadline": "12h"})
    wait_for(lambda: server.runtime.scheduler.observer.look(NOW).problem.jobs)  # its chunk has its answers back


def test_a_worker_that_cannot_rename_is_given_the_named_model_where_its_pool_serves_that(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["big", "small"]') as server:
        _submit(server, models=["small"])
        able, older = server.worker("new", ready="big", renames=True), server.worker("new", ready="big")
        assert able.ask()["prepare"] == "small"
        (lease,) = older.claim()
        assert (lease["model"], lease["rename"]) == ("big", False)


def test_a_worker_whose_engine_lacks_the_chosen_model_is_given_the_named_one(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["big", "small"]') as server:
        _submit(server, models=["small"])
        (lease,) = server.worker("new", ready="big", renames=True, lacking="small").claim()
        assert (lease["model"], lease["rename"]) == ("big", False)


def test_a_worker_whose_engine_lacks_every_model_is_told_of_none(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["big", "small"]') as server:
        _submit(server)
        answer = server.worker("new", ready="small", renames=True, lacking="big").ask()
        assert (answer["leases"], answer["prepare"]) == ([], None)


def test_a_worker_that_cannot_rename_is_given_nothing_where_its_pool_does_not(greedy: LiveServer) -> None:
    def told() -> list[str]:
        greedy.runtime.scheduler.plan_now()
        sentences = greedy.get(f"{PREFIX}/batches/{batch['id']}/explain")["sentences"]
        return [said for said in sentences if "Upgrade batchsched on the workers of old" in said]

    batch = _submit(greedy, models=["small"])
    answer = greedy.worker("old", ready="big").ask()
    assert (answer["leases"], answer["prepare"]) == ([], None)
    (why,) = told()
    assert f"Batch {batch['id']} gets nothing on pool old: its lines name big" in why
    assert why in greedy.get(f"{PREFIX}/plan")["notes"]
    able = greedy.worker("old", ready="small", renames=True)
    assert told() == []
    assert able.claim()
    assert told() == []


def test_until_its_lines_are_read_a_batch_names_no_model_of_theirs() -> None:
    def told(**fields: Any) -> str | None:
        bare = {"id": "b", "endpoint": "e", "input_file_id": "f", "completion_window": "24h", "created_at": 1}
        return dict(summary(msgspec.convert({**bare, "status": "validating", **fields}, Batch)))["model"]

    assert told(model=None, batchsched={"models": ["small"]}) == "the one that its lines name or small"
    assert told(model="big", batchsched={"models": ["big", "small"]}) == "big or small"
    assert told(model="big") == "big"
    assert told(model=None) is None


async def _by_a_worker(server: LiveServer, pool: str, engine: str) -> list[dict[str, Any]]:
    """Twenty requests by a real worker of a pool, on an engine with one model; the answers' bodies."""
    stop, (runner, port) = asyncio.Event(), await serve_engine(FakeEngine(engine))
    settings = Worker(server_url=server.url, engine_url=f"http://127.0.0.1:{port}", drain_s=1.0)
    worker = asyncio.create_task(run_worker(settings, pool, stop=stop))
    try:
        batch = await asyncio.to_thread(_submit, server, 20, models=["small"])
        done = await asyncio.to_thread(server.until, batch["id"], "completed")
    finally:
        stop.set()
        assert await worker == 0
        await runner.cleanup()
    assert (done["model"], done["request_counts"]) == ("big", {"total": 20, "completed": 20, "failed": 0})
    lines = await asyncio.to_thread(server.content, done["output_file_id"])
    return [line["response"]["body"] for line in sorted(lines, key=lambda line: int(line["custom_id"][1:]))]


@pytest.mark.slow
async def test_a_worker_puts_the_model_that_serves_into_every_request(greedy: LiveServer) -> None:
    bodies = await _by_a_worker(greedy, "old", "small")
    assert {body["model"] for body in bodies} == {"small"}
    assert [body["choices"][0]["message"]["content"] for body in bodies] == [f"{i} say" for i in range(20)]


@pytest.mark.slow
async def test_an_engine_that_has_only_the_named_model_serves_a_batch_that_was_to_have_another(tmp_path: Path) -> None:
    with _live(tmp_path, {"DIRTY": 5, "CLEAN": 900}, on_new='["small", "big"]') as server:
        bodies = await _by_a_worker(server, "new", "big")
    assert {body["model"] for body in bodies} == {"big"}


@pytest.mark.parametrize(
    ("fields", "ours", "words"),
    [
        ({}, {"models": ["other"]}, "model 'other' is not served here; served: big, small"),
        ({"endpoint": "/v1/embeddings"}, {"models": ["small"]}, "must ask for 'uniform'"),
        ({}, {"models": "small"}, "Expected `array | null`"),
    ],
)
def test_models_that_cannot_be_are_refused(greedy: LiveServer, fields: dict[str, Any], ours: dict[str, Any], words: str) -> None:
    body = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    error = greedy.post("/v1/batches", {**body, "batchsched": ours}, 400)["error"]
    assert words in error["message"]
    assert error["param"] == "batchsched.models"


def test_an_accepted_model_must_have_room_for_the_answers(greedy: LiveServer) -> None:
    data = requests(3, model="big", max_tokens=4000)
    batch_id = greedy.submit(data, batchsched={"models": ["small"]})["id"]
    (error,) = greedy.until(batch_id, "failed")["errors"]["data"]
    assert (error["code"], error["param"], error["line"]) == ("invalid_value", "batchsched.models", None)
    assert "'small' is accepted" in error["message"]
    greedy.until(greedy.submit(data)["id"], "in_progress")


def test_the_command_and_the_sdk_say_which_models_will_do(greedy: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "input.jsonl"
    file.write_bytes(requests(3, model="big"))
    asked = ["submit", str(file), "--deadline", "12h", "--model", "small,big", "--server", greedy.url, "--json"]
    answer = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["batchsched"]["models"] == ["small", "big"]
    with Client(greedy.url) as client:
        made = client.batches.create(file=file, deadline="12h", models=["small"])
        greedy.until(made.id, "in_progress")
        assert client.batches.retrieve(made.id).batchsched.models == ("big", "small")
    shown = CliRunner().invoke(cli, ["show", made.id, "--server", greedy.url], catch_exceptions=False)
    assert "big or small" in shown.output


def test_a_body_gets_another_model_and_keeps_every_other_byte() -> None:
    body = (
        b'{"model": "big", "temperature": 1.10, "x": 12345678901234567890, "messages":[{"role":"user","content":"\\u00e4 big"}]}'
    )
    found = renamed(body, "small")
    assert json.loads(found) == {**json.loads(body), "model": "small"}
    assert b"1.10" in found
    assert b'[{"role":"user","content":"\\u00e4 big"}]' in found


def _turn_grid(folder: Path, server: LiveServer, grid: dict[str, int]) -> None:
    write_forecast(folder, grid)
    server.runtime.scheduler.plan_now()
