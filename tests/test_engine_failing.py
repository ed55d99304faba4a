"""An engine that does not start is told where people look, with what to do about it, until it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchsched.client import Client
from batchsched.client.stalls import Stalls
from batchsched.clock import ManualClock
from batchsched.errors import EngineFailed, UnknownModel
from batchsched.executors import pauses
from batchsched.executors.failing import LONGEST, Failures
from batchsched.executors.worker import run_worker
from batchsched.published import Published
from batchsched.queue import plans
from batchsched.server import failing
from batchsched.settings import Worker
from batchsched.unable import engineless
from batchsched.wire import PREFIX, Failing
from tests.fake_engine import fake_home
from tests.live import BASIC, HandWorker, LiveServer, live_server, requests, wait_for
from tests.test_plans import command
from tests.test_stalled import until

WHY = "The engine ended while it started: RuntimeError: operator torchvision::nms does not exist."
WELL: dict[str, Any] = {"failing_since": None, "failing_times": 0, "failing_why": ""}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, BASIC, ManualClock(datetime.now(UTC))) as running:
        yield running


def beat(worker: HandWorker, times: int = 0, reason: str = WHY) -> httpx.Response:
    said = {"failing": {"times": times, "reason": reason}} if times else {}
    path = f"{PREFIX}/workers/{worker.worker_id}/heartbeat"
    answer = worker.server.http.post(path, json={"leases": [], "ready_models": [], **said})
    assert answer.status_code == 200, answer.text
    return answer


def told(server: LiveServer) -> list[str]:
    found: list[str] = server.get(f"{PREFIX}/pools")["data"][0]["failing"]
    return found


def progress(server: LiveServer, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.batch(batch_id)["batchsched"]["progress"]
    return found


# What the worker tells.


def test_failures_are_counted_until_the_engine_is_ready_and_the_pauses_grow() -> None:
    failures = Failures(Worker(engine_tries=3), {})
    assert (failures.told, failures.too_many) == (None, False)
    paused = [failures.met(EngineFailed("It ended.", hint="Mend it.", log=f"/state/engine-{n}.log")) for n in range(2)]
    assert paused == [2.0, 4.0]
    told = Failing(2, "It ended. Mend it.")  # where its log is differs from try to try
    assert (failures.told, failures.too_many) == (told, False)
    assert failures.met(UnknownModel("It has no such model.", hint="Name another.")) == 8.0
    assert (failures.told, failures.too_many) == (Failing(3, "It has no such model. Name another."), True)
    failures.over()
    assert (failures.told, failures.too_many) == (None, False)
    assert failures.met(EngineFailed("Again.")) == 2.0
    assert failures.told == Failing(1, "Again.")


def test_what_is_told_is_short_and_has_none_of_the_hosts_secrets() -> None:
    environment = {"HF_TOKEN": "hf_abcdef123", "HOME": "/home/her", "SOME_KEY": "the"}
    failures = Failures(Worker(engine_api_key="engine-secret"), environment)
    failures.met(EngineFailed("the hf_abcdef123 and engine-secret at https://me:mine@hub/x in /home/her" + "!" * 2 * LONGEST))
    assert failures.told is not None
    assert failures.told.reason.startswith("the ... and ... at https://hub/x in /home/her!!!")
    assert len(failures.told.reason) == LONGEST


def test_the_hint_of_a_failed_engine_says_where_its_log_is() -> None:
    assert EngineFailed("x", hint="Mend it.", log="/a.log").hint == "Mend it. Its log is /a.log."
    assert EngineFailed("x", log="/a.log").hint == "Its log is /a.log."
    assert (EngineFailed("x").hint, EngineFailed("x").advice) == (None, "")


# What the server makes of it.


def test_since_when_stays_over_tries_and_nothing_that_is_said_is_refused() -> None:
    first, later = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC)
    row = failing.noted(WELL, Failing(1, "a"), first)
    assert failing.is_news(WELL, row)
    again = failing.noted(row, Failing(2, "b\0\n c"), later)
    assert again == {"failing_since": first, "failing_times": 2, "failing_why": "b c"}
    assert not failing.is_news(row, again)
    wild = failing.noted(again, Failing(10**30, "x" * 10**6), later)
    assert (wild["failing_times"], len(wild["failing_why"])) == (10**6, failing.LONGEST)
    assert failing.noted(wild, None, later) == WELL
    assert failing.is_news(wild, WELL)


def test_a_pool_is_without_engines_only_where_no_worker_has_one() -> None:
    bad = {"pool": "a", "id": "w", "host": "h", "failing_since": datetime(2026, 5, 1, 12, tzinfo=UTC), "failing_why": "x"}
    assert engineless([bad, {"pool": "b", **WELL}]) == {
        "a": "the engine of worker w on h is not ready since 01 May 12:00 UTC: x",
    }
    assert engineless([bad, {"pool": "a", **WELL}]) == {}


def test_a_plan_of_an_earlier_version_knows_of_none(server: LiveServer) -> None:
    beat(server.worker(), 1)
    batch_id = server.submit(requests(2))["id"]
    wait_for(lambda: progress(server, batch_id)["stalled"])
    with server.runtime.database.read() as connection:
        row = plans.latest(connection)
    assert row is not None
    assert Published.of_row(row).engineless.keys() == {"local"}  # as the other servers read it
    del row["body"]["engineless"]
    assert Published.of_row(row).engineless == {}


def test_it_is_told_wherever_people_look_until_it_is_ready(server: LiveServer) -> None:
    worker, batch_id = server.worker(), server.submit(requests(2))["id"]
    beat(worker)
    server.runtime.scheduler.plan_now()
    assert (told(server), progress(server, batch_id)["stalled"]) == ([], False)
    assert 'batchsched_workers_failing{pool="local"} 0.0' in server.http.get("/metrics").text
    since = server.runtime.clock.now()
    beat(worker, 1)
    stalled = wait_for(lambda: (found := progress(server, batch_id))["stalled"] and found)  # a new plan is asked for
    who = f"the engine of worker {worker.worker_id} on test is not ready since {since:%d %b %H:%M UTC}"
    assert stalled["waiting_for"] == f"an engine in pool local that starts: {who}: {WHY}"
    server.advance(90)
    beat(worker, 3)
    assert told(server) == [f"{who} (3 tries): {WHY}"]
    assert f"local: {who} (3 tries): {WHY}" in command(server, "pool", "list")
    assert f"{who}: {WHY}" in " ".join(command(server, "show", batch_id).split())
    assert f"Pool local is without an engine: {who}: {WHY}" in " ".join(command(server, "explain", batch_id).split())
    assert "stalled" in command(server, "list")
    assert any(note.startswith(f"Pool local: {who} (") for note in server.get(f"{PREFIX}/plan")["notes"])
    assert 'batchsched_workers_failing{pool="local"} 1.0' in server.http.get("/metrics").text
    with Client(server.url) as client:
        said = list[str]()
        Stalls(said.append, after_s=0.0)(client.batches.retrieve(batch_id))
        assert len(said) == 1
        assert WHY.rstrip(".") in said[0]
        assert client.pools.list()[0].failing == tuple(told(server))
    beat(worker)
    wait_for(lambda: not progress(server, batch_id)["stalled"])
    assert told(server) == []
    assert 'batchsched_workers_failing{pool="local"} 0.0' in server.http.get("/metrics").text


def test_a_worker_that_registers_anew_goes_on_failing_and_one_that_went_is_not_told_of(server: LiveServer) -> None:
    worker = server.worker()
    beat(worker, 2)
    (before,) = told(server)
    server.advance(60)
    me = {"pool": "local", "host": "test", "pid": 1, "was": worker.worker_id}
    anew = server.post(f"{PREFIX}/workers", me)["worker_id"]
    assert told(server) == [before.replace(worker.worker_id, anew)]
    server.http.post(f"{PREFIX}/workers/{anew}/bye").raise_for_status()
    assert told(server) == []


def test_a_batch_waits_for_nobody_while_another_worker_of_its_pool_has_an_engine(server: LiveServer) -> None:
    worker, other, batch_id = server.worker(), server.worker(), server.submit(requests(2))["id"]
    beat(other)
    beat(worker, 1)
    assert server.runtime.scheduler.plan_now().engineless == {}
    assert not progress(server, batch_id)["stalled"]
    assert len(told(server)) == 1


# Real parts.


@pytest.mark.slow
async def test_a_worker_whose_engine_dies_at_its_start_says_what_to_do_and_works_once_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "FIRST_S", 0.05)
    monkeypatch.setattr(pauses, "LONGEST_S", 0.2)
    words, stop = tmp_path / "words", asyncio.Event()
    words.write_text("RuntimeError: operator torchvision::nms does not exist", "utf-8")
    python = str(fake_home(tmp_path))
    config = BASIC.replace("[pools.local]", f"[server]\nlease_s = 2\n[pools.local]\nengine_args = ['--dying-words', '{words}']")
    with live_server(tmp_path, config) as server:
        settings = Worker(server_url=server.url, engine_python=python, state_dir=str(tmp_path / "state"))
        task = asyncio.create_task(run_worker(settings, "local", stop=stop))
        batch_id = (await asyncio.to_thread(server.submit, requests(2)))["id"]
        waits = await until(lambda: (found := progress(server, batch_id))["stalled"] and WHY in found["waiting_for"] and found)
        assert f"Its torchvision was built for another PyTorch: `{python} -m pip uninstall torchvision" in waits["waiting_for"]
        assert "Its log is" not in waits["waiting_for"]
        await until(lambda: any("tries): The engine" in one for one in told(server)))
        words.unlink()
        await until(lambda: server.batch(batch_id)["status"] == "completed")
        await until(lambda: not told(server))
        stop.set()
        await task
