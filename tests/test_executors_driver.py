"""The worker against a fake server of the protocol and a fake engine: each way in which either can misbehave."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from batchsched.errors import EngineFailed, InvalidConfiguration, PermissionDenied, Unauthorized
from batchsched.executors import counting, pauses
from batchsched.executors import driver as driver_module
from batchsched.executors.worker import run_worker
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from batchsched.wire import HeldLease
from tests.fake_engine import FakeEngine, fake_home
from tests.fake_engine import serve as serve_engine
from tests.fake_server import FakeServer

pytestmark = pytest.mark.slow


@asynccontextmanager
async def served(app: web.Application) -> AsyncGenerator[str]:
    """The URL of an application that runs for as long as the block."""
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def working(server: FakeServer, engine: FakeEngine | Path | str, **settings: Any) -> AsyncGenerator[asyncio.Event]:
    """A worker at work: on a fake engine in this process, on one that it starts itself, or on a URL. Yields what stops it."""
    stop = asyncio.Event()
    runner = None
    if isinstance(engine, FakeEngine):
        runner, port = await serve_engine(engine)
        settings["engine_url"] = f"http://127.0.0.1:{port}"
    elif isinstance(engine, str):
        settings["engine_url"] = engine
    else:
        settings |= {"engine_python": str(fake_home(engine)), "state_dir": str(engine / "state")}
    async with served(server.app()) as url:
        task = asyncio.create_task(
            run_worker(Worker(server_url=url, drain_s=settings.pop("drain_s", 5.0), **settings), "local", stop=stop)
        )
        server.worker = task
        try:
            yield stop
            stop.set()
            assert await task == 0
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)
            if runner:
                await runner.cleanup()


def noting(engine: FakeEngine) -> list[tuple[str, int]]:
    """Grows by each prompt as it comes, and how many the engine then has."""
    seen: list[tuple[str, int]] = []
    count = engine._count

    def noted(prompt: str) -> None:
        seen.append((prompt, engine.in_flight))
        count(prompt)

    engine._count = noted  # type: ignore[method-assign]
    return seen


async def run(server: FakeServer, engine: FakeEngine | Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """Everything the server has, run; the output lines."""
    async with working(server, engine, **settings):
        await server.until_done()
    return server.outputs()


async def test_every_line_is_answered_once_with_its_own_answer() -> None:
    server, engine = FakeServer([f"one two n{number}" for number in range(1, 131)]), FakeEngine()
    outputs = await run(server, engine)
    assert len(outputs) == 130
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in outputs.values()} == {
        f"n{number} two one" for number in range(1, 131)
    }
    assert outputs["c7"]["response"]["body"]["choices"][0]["message"]["content"] == "n7 two one"
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in outputs.values())
    assert all(line["id"].startswith("batch_req_") and line["response"]["request_id"] for line in outputs.values())
    assert set(engine.computed.values()) == {1}
    assert all((result.input_tokens, result.output_tokens) == (3, 3) for result in server.results.values())


async def test_no_more_than_the_pools_bound_are_in_flight_and_chunks_overlap() -> None:
    server = FakeServer([f"n{number}" for number in range(120)], chunk_lines=10, pool=Pool(max_in_flight=32))
    engine = FakeEngine()
    engine.gate.clear()
    async with working(server, engine):
        await server.until(lambda: engine.in_flight == 32)
        await asyncio.sleep(0.1)  # long enough for more
        engine.gate.set()
        await server.until_done()
    assert engine.peak_in_flight == 32


async def test_an_engine_without_room_is_asked_again_until_it_has_some() -> None:
    server, engine = FakeServer([f"n{number}" for number in range(30)], pool=Pool(max_in_flight=16)), FakeEngine(delay_s=0.01)
    engine.overloaded_above = 8
    outputs = await run(server, engine)
    assert len(outputs) == 30
    assert all(result.ok for result in server.results.values())


async def test_a_stale_lease_stops_the_chunk_at_once() -> None:
    server, engine = FakeServer(["quick", "a [[hang]]"]), FakeEngine()
    async with working(server, engine):
        await server.until(lambda: server.results)
        server.steal(server.chunks[0])
        await server.until(lambda: server.heard("heartbeat") and not server.heard("heartbeat")[-1].leases)
        assert engine.in_flight == 0
    assert server.heard("stale") == []
    assert list(server.results) == [1]


async def test_results_refused_as_stale_are_not_sent_again() -> None:
    server, engine = FakeServer(["a", "b"], heartbeat_s=60), FakeEngine(delay_s=0.3)
    async with working(server, engine):
        await server.until(lambda: engine.in_flight)
        server.steal(server.chunks[0])
        await server.until(lambda: server.heard("stale"))
        await server.until(lambda: len(server.heard("claim")) > 4)
    assert len(server.heard("stale")) == 1
    assert not server.results


async def test_nothing_is_sent_while_the_lease_may_have_run_out() -> None:
    server = FakeServer(
        [f"a{number} [[slow 0.05]]" for number in range(100)], pool=Pool(max_in_flight=4), chunk_lines=100, lease_s=0.3
    )
    engine = FakeEngine()
    async with working(server, engine):
        await server.until(lambda: server.results)
        server.trouble["heartbeat"] = [503] * 1000
        await server.until(lambda: not engine.in_flight)
        assert sum(engine.computed.values()) < 100
        server.trouble["heartbeat"] = []
        await server.until_done()
    assert set(engine.computed.values()) == {1}


@pytest.mark.parametrize("trouble", [503, 507, 500, "drop", "lose answer"])
async def test_results_survive_a_server_in_trouble(trouble: int | str) -> None:
    server, engine = FakeServer([f"n{number}" for number in range(20)]), FakeEngine()
    server.trouble["results"] = [trouble, trouble]
    server.trouble["finish"] = [503]
    await run(server, engine)
    assert len(server.results) == 20
    assert set(engine.computed.values()) == {1}


async def test_a_closing_window_gives_the_rest_back_without_an_attempt() -> None:
    server = FakeServer([f"a{number} [[slow 0.05]]" for number in range(100)], pool=Pool(max_in_flight=4), chunk_lines=100)
    engine = FakeEngine()
    async with working(server, engine):
        await server.until(lambda: server.results)
        server.stop = {"chunk_0": "window_closed"}
        await server.until(lambda: server.heard("release"))
        release = server.heard("release")[0]
        assert release.reason == "window_closed"
        assert 0 < len(server.results) == sum(engine.computed.values()) < 100
        server.stop = {}
        await server.until_done()
    assert not server.heard("fail")
    assert set(engine.computed.values()) == {1}


async def test_a_worker_told_to_stop_drains_gives_back_and_says_goodbye() -> None:
    server = FakeServer([f"a{number} [[slow 0.05]]" for number in range(50)], pool=Pool(max_in_flight=4))
    engine = FakeEngine()
    async with working(server, engine) as stop:
        await server.until(lambda: server.results)
        stop.set()
        await server.until(lambda: server.heard("bye"))
    assert [message.reason for message in server.heard("release")] == ["shutdown"]
    assert len(server.results) == sum(engine.computed.values()) < 50


async def test_what_does_not_come_back_in_time_is_let_go() -> None:
    server, engine = FakeServer(["a", "b [[hang]]"]), FakeEngine()
    async with working(server, engine, drain_s=0.1) as stop:
        await server.until(lambda: server.results)
        stop.set()
        await server.until(lambda: server.heard("bye"))
    assert list(server.results) == [1]
    assert server.heard("release")[0].reason == "shutdown"


async def test_the_line_that_kills_engines_is_found_and_set_aside(tmp_path: Path) -> None:
    prompts = [f"n{number} [[slow 0.05]]" for number in range(12)]
    prompts[5] = "x [[die]]"
    server = FakeServer(prompts, pool=Pool(max_in_flight=8))
    outputs = await run(server, tmp_path)
    found = [message.suspects for message in server.heard("fail")]
    assert all(6 in suspects for suspects in found)
    assert all(set(later) < set(early) and 2 * len(later) <= len(early) for early, later in itertools.pairwise(found))
    assert server.chunks[0].attempt == 1
    assert outputs["c6"]["error"]["code"] == "engine_crash"
    assert [line for line, result in server.results.items() if not result.ok] == [6]


async def test_an_engine_that_dies_for_no_line_is_started_again(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    server = FakeServer(
        [f"n{number} [[slow 0.2]] [[tag n{number}]]" for number in range(40)],
        chunk_lines=10,
        pool=Pool(max_in_flight=10, engine_args=["--count-file", str(counts)]),
    )
    async with working(server, tmp_path):
        await server.until(lambda: len(server.results) > 5)
        pid = int(next((tmp_path / "state").glob("*.log")).read_text().split('"pid": ')[1].split("}")[0])
        os.kill(pid, signal.SIGKILL)
        await server.until_done()
    assert all(result.ok for result in server.results.values())
    assert len(server.results) == 40
    computed = counts.read_text().split()
    assert set(computed) >= {f"n{number}" for number in range(40)}  # and one of the worker's own, after the death


async def test_an_engine_that_cannot_start_is_tried_again_then_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "FIRST_S", 0.05)
    server = FakeServer(["a"], pool=Pool(engine_args=["--fail-start"]))
    with pytest.raises(EngineFailed, match="asked not to start"):
        await run(server, tmp_path, engine_tries=2)
    assert server.heard("bye")
    assert server.heard("release") == server.heard("fail") == []


async def test_suspects_go_first_half_at_a_time_with_the_engine_for_themselves() -> None:
    server, engine = FakeServer([f"n{number}" for number in range(1, 20)]), FakeEngine(delay_s=0.05)
    server.chunks[0].suspects = [9, 1, 3, 12]
    seen = noting(engine)
    await run(server, engine)
    assert seen[:4] == [("n9", 2), ("n1", 1), ("n3", 1), ("n12", 1)]
    assert seen[4][1] == 15


async def test_a_stopped_engine_is_noticed_although_its_requests_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "HEALTH_EVERY_S", 0.05)
    server, engine = FakeServer(["a [[hang]]", "b"]), FakeEngine()
    async with working(server, engine):
        await server.until(lambda: server.results)
        engine.dead = True
        await server.until(lambda: server.heard("fail"))
    assert server.heard("fail")[0].suspects == [1]


async def test_the_server_may_come_late_and_forget_the_worker() -> None:
    server, engine = FakeServer(["a", "b"]), FakeEngine()
    server.trouble["workers"] = [503, "drop"]
    server.trouble["leases"] = [404]
    outputs = await run(server, engine)
    assert len(outputs) == 2
    assert len(server.heard("register")) == 2


async def test_a_worker_that_meets_a_new_model_registers_as_who_it_was() -> None:
    server, engine = FakeServer(["a"]), FakeEngine()
    models, server.models = server.models, {}
    async with working(server, engine):
        await server.until(lambda: server.heard("register"))
        server.models = models
        await server.until_done()
    assert [each.was for each in server.heard("register")] == ["", "worker_1"]


async def test_heartbeats_say_what_is_ready() -> None:
    server, engine = FakeServer(["a [[hang]]"]), FakeEngine()
    async with working(server, engine):
        await server.until(lambda: any(each.ready_models == ["tiny"] for each in server.heard("heartbeat")))
        engine.dead = True
        await server.until(lambda: server.heard("fail"))
        await server.until(lambda: server.heard("heartbeat")[-1].ready_models == [])


async def test_meters_add_up_and_never_overlap() -> None:
    server, engine = FakeServer([f"n{number}" for number in range(60)], chunk_lines=20), FakeEngine(delay_s=0.3)
    await run(server, engine)
    for chunk in server.chunks:
        meters = [meter for meter in chunk.meters if meter]
        assert meters
        assert all(early.ended_at <= late.started_at for early, late in itertools.pairwise(meters))
        assert sum(meter.energy_j for meter in meters) > 0
        assert {meter.energy_source for meter in meters} <= {"modelled", "rapl"}


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/embeddings"])
async def test_other_endpoints(endpoint: str) -> None:
    server = FakeServer(["one two", "three"], endpoint=endpoint)
    outputs = await run(server, FakeEngine(embedding="embed" in endpoint))
    body = outputs["c1"]["response"]["body"]
    assert body["choices"][0]["text"] == "two one" if "embed" not in endpoint else len(body["data"][0]["embedding"]) == 8


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, PermissionDenied)])
async def test_a_key_that_is_refused_at_once_ends_the_worker(status: int, error: type[Exception]) -> None:
    server = FakeServer(["a"])
    server.trouble["workers"] = [status]
    with pytest.raises(error):
        await run(server, FakeEngine())
    assert not server.heard("register")


async def test_a_key_that_is_refused_later_is_waited_out() -> None:
    server = FakeServer(["a"])
    server.trouble["leases"] = [401]
    server.trouble["results"] = [401]
    assert len(await run(server, FakeEngine())) == 1


@pytest.mark.parametrize("url", ["http://[bad", "127.0.0.1:8424", "http://127.0.0.1:99999"])
async def test_a_url_that_is_none_ends_the_worker(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="not a URL"):
        await run_worker(Worker(server_url=url, engine_url="http://127.0.0.1:9"), "local")


async def test_a_model_that_the_engine_lacks_does_not_starve_the_one_it_serves() -> None:
    server = FakeServer(["a", "b"], chunk_lines=1)
    server.models["big"] = ServedModel()
    big, tiny = server.chunks
    big.model, tiny.state = "big", "later"
    async with working(server, FakeEngine("tiny")):
        await server.until(lambda: len(server.heard("claim")) > 2)  # asked for the big one again and again
        tiny.state = "waiting"
        await server.until(lambda: tiny.state == "finished")
    assert server.results[2].ok
    assert big.state == "waiting"


async def test_a_chunk_whose_input_is_on_its_way_at_shutdown_is_given_back() -> None:
    server, engine = FakeServer(["a", "b"]), FakeEngine()
    server.input_open.clear()
    async with working(server, engine) as stop:
        await server.until(lambda: server.chunks[0].state == "leased")
        stop.set()
        server.input_open.set()
        await server.until(lambda: server.heard("bye"))
    assert [message.reason for message in server.heard("release")] == ["shutdown"]
    assert not engine.computed


async def test_a_chunk_that_comes_back_before_its_old_lease_has_ended_is_worked_on() -> None:
    server, engine = FakeServer(["a", "b [[slow 1.0]]"]), FakeEngine()
    chunk = server.chunks[0]
    server.trouble["results"] = [503] * 3
    async with working(server, engine):
        await server.until(lambda: len(server.trouble["results"]) < 3)  # the old lease is busy insisting
        server.steal(chunk)
        chunk.state = "waiting"
        await server.until(lambda: chunk.state == "leased")
        await server.until(lambda: server.heard("heartbeat")[-1].leases == [HeldLease(chunk.id, chunk.token)])
        await server.until_done()
    assert all(server.results[line].ok for line in (1, 2))
    assert server.heard("finish")[-1].meter is not None
    assert server.heard("fail") == server.heard("release") == []


@pytest.mark.parametrize("trouble", [403, 400, "html"])
async def test_results_that_the_server_refuses_end_the_work_and_are_said(trouble: int | str) -> None:
    server = FakeServer([f"n{number}" for number in range(20)] + ["last [[hang]]"])
    server.trouble["results"] = [trouble]
    async with working(server, FakeEngine()):
        await server.until(lambda: server.heard("fail"))  # although the last line never comes
    assert server.heard("fail")[0].suspects == []


async def test_a_group_that_is_too_large_is_halved() -> None:
    server, engine = FakeServer([f"n{number}" for number in range(40)]), FakeEngine()
    server.trouble["results"] = [413, 413]
    await run(server, engine)
    assert max(len(message.results) for message in server.heard("results")) <= 10
    assert set(engine.computed.values()) == {1}
    assert not server.heard("fail")


@pytest.mark.parametrize("trouble", ["hang", "html", 403])
async def test_heartbeats_go_on_whatever_one_is_answered(trouble: int | str) -> None:
    server = FakeServer(["a [[hang]]"])
    server.trouble["heartbeat"] = [trouble]
    async with working(server, FakeEngine(), drain_s=0.1):
        await server.until(lambda: server.heard("heartbeat"))


async def test_heartbeats_tell_of_the_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (tmp_path / "engine-m-1.log").write_bytes(bytes(700))
    (tmp_path / "trials.jsonl").write_bytes(bytes(40))
    server = FakeServer(["a"])
    async with working(server, FakeEngine(), state_dir=str(tmp_path)):
        await server.until(lambda: any(beat.logs_bytes == 700 for beat in server.heard("heartbeat")))
        (tmp_path / "engine-m-2.log").write_bytes(bytes(5))
        await server.until(lambda: server.heard("heartbeat")[-1].logs_bytes == 705)
    assert "Engine: the engine at http://" in caplog.text
    assert "nothing" not in caplog.text


async def test_two_workers_on_one_engine_share_its_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "EVERY_S", 0.05)
    pool = Pool(power_w=100.0, max_in_flight=4)
    much, little = FakeServer(["one two three"] * 60, pool=pool), FakeServer(["one"] * 60, pool=pool)
    runner, port = await serve_engine(FakeEngine(delay_s=0.05))
    url = f"http://127.0.0.1:{port}"
    async with working(much, url), working(little, url):
        await asyncio.gather(much.until_done(), little.until_done())
    await runner.cleanup()
    meters = {server: [meter for chunk in server.chunks for meter in chunk.meters] for server in (much, little)}
    both = [*meters[much], *meters[little]]
    took_s = (max(meter.ended_at for meter in both) - min(meter.started_at for meter in both)).total_seconds()
    most_j, least_j = (sum(meter.energy_j for meter in meters[server]) for server in (much, little))
    assert most_j + least_j == pytest.approx(100 * took_s, rel=0.25)  # not twice that
    assert most_j > 2 * least_j
