"""The benchmark of serving modes sends what it says and sums up as it says."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from benchmarks.modes import Mode, _plan, _summed
from benchmarks.modes_load import FIRST_TOKEN, LAST_TOKEN, Body, Sent, differing, of_lengths, run, spread


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

    sent = await run(of_lengths("large", [2, 3, 4], 5, 2), send)
    assert sent.lost == 1
    assert differing(sent, Sent([[1], [2], sent.answers[2]], 1.0)) == 1


def test_the_sum_names_what_was_not_run() -> None:
    found = {"dsd": Mode([0.5, 0.3, 0.4], 0, 10, 0, {"acceptance": 0.66666, "bytes_per_token": 9.5}), "dpd": None}
    assert json.loads(json.dumps(_summed(found))) == {
        "dpd_equal_outputs": None,
        "dpd_bytes_per_token_measured": None,
        "dpd_bytes_per_token_computed": None,
        "dsd_equal_outputs": True,
        "dsd_bytes_per_token": 9.5,
        "dsd_acceptance": 0.6667,
        "throughput_vs_standalone": {"spec": None, "dpd": None, "dsd": 0.4},
        "lost": 0,
    }
