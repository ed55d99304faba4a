"""Batches that nothing can run: an engine that goes by another model's name is told apart, named early, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchsched.client.results import Batch, Progress, Scheduling
from batchsched.client.stalls import AFTER_S, Stalls
from batchsched.executors import lacks
from batchsched.executors.worker import run_worker
from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.queue import workers
from batchsched.settings import Worker
from batchsched.unable import lacked
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.live import live_server, requests

FLEET = Fleet({"home": Site(zone="DE")}, {"a": Pool(), "b": Pool()}, {"tiny": ServedModel(), "big": ServedModel()}, "home", {})


def worker(pool: str, lacks: list[str] | None, *ready: str) -> dict[str, Any]:
    """A worker's row."""
    return {"pool": pool, "lacking": lacks, "ready_models": list(ready)}


def test_a_pool_lacks_what_all_of_its_workers_lack() -> None:
    alive = [worker("a", ["tiny", "big"], "other"), worker("a", ["tiny"]), worker("b", None)]
    found = lacked(alive, set(), FLEET)
    assert list(found) == [("tiny", "a")]
    assert "No engine of pool a serves tiny; there is other." in found["tiny", "a"]
    assert "--served-model-name tiny" in found["tiny", "a"]
    assert lacked(alive, {"a"}, FLEET) == {}  # a launcher may start one that has it


def a_batch(**progress: Any) -> Batch:
    """One that is in progress."""
    ours = Scheduling(progress=Progress(**progress))
    return Batch("batch_1", "/v1/chat/completions", "file_1", "24h", "in_progress", 0, batchsched=ours)


def test_a_stall_is_said_once_after_a_while_and_its_end_too() -> None:
    said, now = list[str](), [0.0]
    look = Stalls(said.append, now=lambda: now[0])
    for now[0] in (0.0, AFTER_S - 1):
        look(a_batch(stalled=True, waiting_for="a worker of pool a"))
    look(a_batch())
    for now[0] in (100.0, 100.0 + AFTER_S, 101.0 + AFTER_S):
        look(a_batch(stalled=True, waiting_for="No engine."))
    assert len(said) == 1
    assert said[0].startswith("batch_1 is stalled: it waits for No engine. It goes on")
    assert "batchsched pool list" in said[0]
    look(a_batch())
    assert said[1:] == ["batch_1 is no longer stalled."]


async def until(true: Callable[[], Any]) -> Any:
    """Ask a blocking question again and again."""
    async with asyncio.timeout(120):
        while not (found := await asyncio.to_thread(true)):
            await asyncio.sleep(0.05)
    return found


@pytest.mark.slow
async def test_an_engine_that_goes_by_another_name_is_named_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lacks, "LOOK_EVERY_S", 0.2)
    engine, stop = FakeEngine("other"), asyncio.Event()
    runner, port = await serve_engine(engine)
    with live_server(tmp_path) as server:
        settings = Worker(server_url=server.url, engine_url=f"http://127.0.0.1:{port}")
        task = asyncio.create_task(run_worker(settings, "local", stop=stop))

        def progress() -> dict[str, Any]:
            found: dict[str, Any] = server.batch(batch_id)["batchsched"]["progress"]
            return found

        batch_id = (await asyncio.to_thread(server.submit, requests(2)))["id"]
        waits = await until(lambda: progress()["stalled"] and "No engine" in progress()["waiting_for"] and progress())
        assert "No engine of pool local serves tiny" in waits["waiting_for"]
        assert waits["running_on"] == []
        with server.runtime.database.read() as connection:
            assert workers.idle_power(connection) == {"local": 0.0}  # who runs the engine pays for its rest
        explained = await asyncio.to_thread(lambda: server.http.get(f"/v1/batchsched/batches/{batch_id}/explain").text)
        assert "--served-model-name tiny" in explained
        engine.names = ["tiny"]
        done = await until(lambda: (found := server.batch(batch_id))["status"] == "completed" and found)
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        stop.set()
        await task
    await runner.cleanup()
