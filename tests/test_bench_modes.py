"""The benchmark of serving modes sends what it says and sums up as it says."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from benchmarks.modes import _plan, _summed
from benchmarks.modes_engines import Engine
from benchmarks.modes_load import FIRST_TOKEN, LAST_TOKEN, Body, Sent, of_lengths, run, spread
from benchmarks.modes_ties import TIE_NATS, Parting, other_answers, partings, tie_at
from benchmarks.modes_turns import Mode, Turn, Way, compare, table
from tests.test_executors_driver import served


def test_prompts_have_the_lengths_that_are_asked_for() -> None:
    lengths = spread(20, 4000, 32)
    assert lengths[0] == 20
    assert lengths[-1] == 4000
    assert lengths == sorted(lengths)
    load = of_lengths("large", lengths, 48, 8)
    assert [len(body["prompt"]) for body in load.bodies] == lengths
    assert {token for body in load.bodies for token in body["prompt"]} <= set(range(FIRST_TOKEN, LAST_TOKEN + 1))
    assert load.tokens == 32 * 48
    assert load == of_lengths("large", lengths, 48, 8)


def test_whole_runs_cover_short_and_long_prompts_alone_and_many_at_once() -> None:
    plan = _plan(quick=False)
    assert [load.in_flight for load in plan.equal] == [1, 32]
    assert all({20, 4000} <= {len(body["prompt"]) for body in load.bodies} for load in plan.equal)


async def test_a_request_without_an_answer_is_lost_and_not_different() -> None:
    async def send(session: aiohttp.ClientSession, body: Body) -> list[int]:
        await asyncio.sleep(0)
        if len(body["prompt"]) == 3:
            raise aiohttp.ClientConnectionError
        return list(body["prompt"])

    load = of_lengths("large", [2, 3, 4], 5, 2)
    sent = await run(load, send)
    assert sent.lost == 1
    first = sent.answers[0]
    assert first is not None
    (found,) = partings(load, sent, Sent([[first[0], -7], [2], sent.answers[2]], 1.0))
    assert found == Parting(load.bodies[0], 2, first[:1], first[1], -7)


async def test_an_answer_that_parts_where_two_tokens_tie_is_no_other_answer(capsys: pytest.CaptureFixture[str]) -> None:
    body = of_lengths("large", [2], 5, 1).bodies[0]
    asked = list[dict[str, Any]]()

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.json())
        best = {"token_id:7": -1.0, "token_id:8": -1.0 - TIE_NATS / 2, "token_id:9": -3.0}
        return web.json_response({"choices": [{"logprobs": {"top_logprobs": [best]}}]})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with served(app) as url:
        tie = tie_at(url)
        found = [Parting(body, 1, [4, 4], 7, theirs) for theirs in (8, 9, 10, -1)]
        assert [round(await tie(one), 3) for one in found] == [TIE_NATS / 2, 2.0, math.inf, math.inf]
        assert await other_answers(found, tie, "it") == (3, 1)
    assert asked[0]["prompt"] == [*body["prompt"], 4, 4]
    assert (
        "it: the answer to a prompt of 2 tokens, 1 in flight, differs after 2 tokens, where two tokens tie"
        in capsys.readouterr().out
    )


def turn(seconds: float, own_j: float, partner_j: float = 0.0) -> Turn:
    return Turn(seconds, own_j, partner_j, 1000.0, "modelled")


def mode(ratio: float = 2.0, **figures: float) -> Mode:
    """Three repetitions, each so much slower than the engine alone, or a fifth more or less, for as many more joules."""
    turns = [(turn(10.0, 100.0), turn(10 * ratio * by, 60 * ratio * by, 40 * ratio * by)) for by in (0.8, 1.25, 1.0)]
    return Mode(turns, 64, 0, 0, 10, 0, figures)


def test_the_sum_names_what_was_not_run() -> None:
    assert json.loads(json.dumps(_summed({"dsd": mode(acceptance=0.66666, bytes_per_token=9.5)}))) == {
        "dpd_equal_outputs": None,
        "dpd_bytes_per_token_measured": None,
        "dpd_bytes_per_token_computed": None,
        "dsd_equal_outputs": True,
        "dsd_bytes_per_token": 9.5,
        "dsd_acceptance": 0.6667,
        "throughput_vs_standalone": {"spec": None, "dpd": None, "dsd": 0.5},
        "energy_vs_standalone": {"spec": None, "dpd": None, "dsd": 2.0},
        "tied": 0,
        "lost": 0,
    }


def test_the_papers_equations_are_told_of_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    dear, cheap = mode(2.0), mode(0.5)
    told = dear.verdict(two_machines=True)
    assert told.energy_saved_j == pytest.approx(300 - 610)
    assert told.rho == pytest.approx(610 / 300)
    assert not told.saved
    assert told.modelled
    assert told.old_term > 0
    alone = cheap.verdict(two_machines=False)
    assert (alone.saved, alone.old_term) == (True, 0.0)
    assert cheap.verdict(two_machines=True).share > alone.share
    table({"dpd": dear, "spec": cheap}, frozenset({"dpd"}))
    lines = capsys.readouterr().out.splitlines()
    assert "0.500 [0.400, 0.625]" in lines[1]
    assert lines[3].startswith("dpd: takes 103% more energy and saves nothing")
    assert "Equation 4: -310 J of 300 saved" in lines[3]
    assert lines[-1].startswith("Energy is modelled, by CPU time.")


class Still(Engine):
    """An engine that is a sleeping process."""

    def __init__(self, folder: Path) -> None:
        super().__init__("still", 1, subprocess.Popen(["sleep", "1000"], start_new_session=True), folder / "log")

    async def stands(self, still: bool) -> None:
        """Signals take a moment."""
        async with asyncio.timeout(60):
            while (psutil.Process(self.pid).status() == psutil.STATUS_STOPPED) != still:
                await asyncio.sleep(0.001)


async def test_each_has_its_turn_alone_the_order_alternates_and_answers_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines, order = (Still(tmp_path), Still(tmp_path)), list[str]()

    def way(own: int) -> Way:
        async def send(session: aiohttp.ClientSession, body: Body) -> list[int]:
            await engines[own].stands(still=False)
            await engines[1 - own].stands(still=True)
            order.append("alone" if own == 0 else "mode")
            return [len(body["prompt"]) + own * (len(body["prompt"]) == 3), 0]

        return Way(send, [engines[own]], lambda: 8.0 * len(order))

    async def tie(parting: Parting) -> float:
        for engine in engines:
            await engine.stands(still=False)
        return 0.0 if parting.body is long.bodies[0] else 1.0

    try:
        long, rate = of_lengths("large", [3, 4], 5, 2), of_lengths("large", [2, 3], 5, 2)
        known = Sent([[2, 0], [3, 0]], 1.0)
        found = await compare("it", [(long, Sent([[3, 0], [4, 0]], 1.0))], (rate, known), 2, way(0), way(1), tie)
        for engine in engines:
            await engine.stands(still=False)
        assert engines[0].pids() == [engines[0].pid]
    finally:
        for engine in engines:
            engine.kill()
    assert order == ["mode"] * 2 + ["alone"] * 2 + ["mode"] * 4 + ["alone"] * 2
    assert (found.differ, found.tied, found.compared, found.lost) == (2, 1, 6, 0)
    assert (
        "it: the answer to a prompt of 3 tokens, 2 in flight, differs after 0 tokens, 1.000 nats apart" in capsys.readouterr().out
    )
    assert [turned.between_bytes for _, turned in found.turns] == [16.0, 16.0]
    assert all(each.own_j > 0 for pair in found.turns for each in pair)
