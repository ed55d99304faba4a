"""Lines that meet errors: which are final, which are asked again, and that they are told from those of a death."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.executors import asking
from batchsched.fleet import Pool
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.test_executors_driver import noting, run, working

pytestmark = pytest.mark.slow


async def test_one_bad_line_fails_alone_with_the_engines_own_words() -> None:
    server = FakeServer(["fine", "too " * 3000, "also fine"])
    outputs = await run(server, FakeEngine())
    assert outputs["c2"]["response"]["status_code"] == 400
    assert outputs["c2"]["response"]["body"]["error"]["param"] == "input_tokens"
    assert outputs["c2"]["error"] is None
    assert [server.results[line].ok for line in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_line_is_not_asked_again(status: int) -> None:
    server, engine = FakeServer([f"a [[{status}]]", "b"]), FakeEngine()
    outputs = await run(server, engine)
    assert outputs["c1"]["response"]["status_code"] == status
    assert outputs["c2"]["response"]["status_code"] == 200


@pytest.mark.parametrize(
    "trouble",
    [
        *("[[500 2]]", "[[503 3]]", "[[429 2]]", "[[408 1]]", "[[502 1]]", "[[504 2]]", "[[cut]]", "[[garbage]]", "[[drop]]"),
        *("[[inside 500 2]]", "[[inside 503 3]]"),
    ],
)
async def test_trouble_that_passes_is_ridden_out(trouble: str) -> None:
    server, engine = FakeServer([f"a {trouble}", "b"]), FakeEngine()
    outputs = await run(server, engine)
    assert outputs["c1"]["response"]["status_code"] == 200
    assert sum(engine.computed.values()) == 2
    assert not server.heard("fail")


@pytest.mark.parametrize("status", [400, 422])
async def test_an_error_that_comes_as_a_200_is_the_lines_error(status: int) -> None:
    server = FakeServer([f"a [[inside {status}]]", "b"])
    outputs = await run(server, FakeEngine())
    assert outputs["c1"]["response"]["status_code"] == status
    assert outputs["c1"]["response"]["body"]["error"]["message"] == f"Asked for {status} inside."
    assert [server.results[line].ok for line in (1, 2)] == [False, True]
    assert not server.heard("fail")


async def test_a_line_that_always_meets_an_error_gets_an_error_line() -> None:
    server = FakeServer(["a [[500]]", "b [[garbage always]]", "c", "d [[inside 500]]"])
    outputs = await run(server, FakeEngine())
    assert outputs["c1"]["response"]["status_code"] == 500
    assert outputs["c1"]["response"]["body"]["error"]["message"] == "Asked for 500."
    assert outputs["c2"]["response"]["status_code"] == 502
    assert outputs["c2"]["response"]["body"]["error"]["message"] == "<html>bad gateway</html>"
    assert outputs["c3"]["response"]["status_code"] == 200
    assert outputs["c4"]["response"]["status_code"] == 500
    assert [server.results[line].ok for line in (1, 2, 3, 4)] == [False, False, True, False]
    (failed,) = server.heard("fail")  # it might have been the engine: asked twice
    assert (failed.suspects, failed.erring) == ([1, 2, 4], [1, 2, 4])


async def test_a_line_of_which_one_engine_is_sick_runs_on_another() -> None:
    server, engine = FakeServer([f"a [[500 {asking.TRIES + 1}]]", "b"]), FakeEngine()
    outputs = await run(server, engine)
    assert outputs["c1"]["response"]["status_code"] == 200
    assert len(server.heard("fail")) == 1


async def test_an_engine_that_drains_costs_no_line_and_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LONGEST_PAUSE_S", 0.02)
    server, engine = FakeServer([f"n{number}" for number in range(20)]), FakeEngine()
    engine.draining = True
    async with working(server, engine):
        await server.until(lambda: engine.refused > 20 * 2 * asking.TRIES)
        assert not server.results
        engine.draining = False  # what stands behind the URL was replaced
        await server.until_done()
    assert all(result.ok for result in server.results.values())
    assert not server.heard("fail")


async def test_a_line_that_never_gets_an_answer_ends_by_its_timeout() -> None:
    server = FakeServer(["a [[hang]]", "b"])
    outputs = await run(server, FakeEngine(), request_timeout_s=0.2)
    assert outputs["c1"]["response"] is None
    assert outputs["c1"]["error"]["code"] == "engine_error"
    assert outputs["c2"]["response"]["status_code"] == 200


async def test_lines_that_met_errors_only_are_not_hunted_as_those_of_a_death_are() -> None:
    """They go with all others, and what is final of them is their second round of errors, not a death."""
    prompts = [f"n{number}" for number in range(1, 20)]
    prompts[2] = "n3 [[500]]"
    server, engine = FakeServer(prompts), FakeEngine(delay_s=0.05)
    server.chunks[0].suspects, server.chunks[0].erring = [9, 1, 3, 12], [3, 12]
    seen = noting(engine)
    outputs = await run(server, engine)
    assert seen[:2] == [("n9", 1), ("n1", 1)]
    assert seen[2][1] == 16
    assert outputs["c3"]["response"]["status_code"] == 500
    assert not server.heard("fail")


async def test_a_line_that_met_errors_only_is_not_set_aside_for_one_death(tmp_path: Path) -> None:
    prompts = ["one", "x [[500 3]] [[die]]", "two"]
    server = FakeServer(prompts, pool=Pool(max_in_flight=8))
    server.chunks[0].suspects, server.chunks[0].erring = [2], [2]
    outputs = await run(server, tmp_path)
    assert outputs["c2"]["error"]["code"] == "engine_crash"
    assert [(message.suspects, message.erring) for message in server.heard("fail")] == [([2], [])]
