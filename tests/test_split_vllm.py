"""Prompts read by one real vLLM and answered by another, on this machine's processors, by NixlConnector."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from collections.abc import AsyncGenerator

import msgspec
import pytest
import pytest_asyncio

from batchsched.executors.demand import Demand, demand_of
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.handoff import LEASE_S
from batchsched.executors.outputs import Reply
from batchsched.fleet import ServedModel
from batchsched.lines import COMPLETIONS
from tests.engine_fixture import real_engine
from tests.split_proof import ANSWER_TOKENS, Rig, computed_bytes, two_servers

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]
LENGTHS = (20, 61, 128, 129, 400, 1000, 2048, 4000)
STEPS = {"reading": 11, "between": 12, "answering": 13}
"""At which one of the two is killed; by each the seed of its prompts, which nobody has seen before."""


def nixl_home() -> EngineHome:
    """An engine's environment with nixl; skips the test, loudly, where there is none."""
    home = real_engine()
    found = subprocess.run([home.python, "-c", "import nixl"], cwd="/", capture_output=True, check=False)
    if found.returncode:
        pytest.skip("handing prompts over is NOT tested: the engine's environment has no nixl (make modes-env)")
    return home


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Rig]:
    """Two servers for all tests here; those that kill one start it again."""
    model = msgspec.structs.replace(tiny_model, max_model_len=4608)
    async with two_servers(nixl_home(), model, tmp_path_factory.mktemp("split")) as both:
        yield both


@pytest.mark.parametrize("in_flight", [1, 32])
async def test_answers_are_those_of_one_server_alone(rig: Rig, in_flight: int) -> None:
    lengths = LENGTHS if in_flight == 1 else [20 + 3980 * number // 31 for number in range(32)]
    proof = await rig.prove(lengths, in_flight, seed=in_flight)
    print(proof)
    assert proof.equal == proof.prompts
    assert proof.tied <= 2, "ties are rare"
    assert proof.external_tokens == proof.prompt_tokens
    assert proof.bytes_per_token == pytest.approx(computed_bytes(rig.model))
    assert rig.split.counts["handed"] >= proof.prompts


def asked(tokens: int, answer_tokens: int = ANSWER_TOKENS, seed: int = 0) -> bytes:
    rng = random.Random(f"{seed} {tokens}")
    prompt = [rng.randint(20, 250) for _ in range(tokens)]
    wanted = {"temperature": 0, "max_tokens": answer_tokens, "ignore_eos": True, "return_token_ids": True}
    return json.dumps({"model": "tiny", "prompt": prompt, "cache_salt": str(seed), **wanted}).encode()


async def kill(rig: Rig, which: str) -> None:
    """kill -9 of a server whole."""
    engine = rig.reader if which == "reader" else rig.ours
    pid = engine.pids()[0]
    os.killpg(os.getpgid(pid), signal.SIGKILL)
    while engine.alive():
        await asyncio.sleep(0.02)


async def restored(rig: Rig, which: str) -> None:
    engine = rig.reader if which == "reader" else rig.ours
    await engine.start(rig.model, "tiny")
    await rig.measured()


@pytest.mark.parametrize("step", STEPS)
async def test_kill_9_of_the_reading_server_at_each_step_costs_no_request(rig: Rig, step: str) -> None:
    post, killed = rig.post, asyncio.Event()

    async def read(url: str, data: bytes) -> Reply:
        if step == "reading":
            task = asyncio.create_task(post(url, data))
            await asyncio.sleep(0.05)
            if not killed.is_set():
                killed.set()
                await kill(rig, "reader")
            return await task
        reply = await post(url, data)
        if step == "between" and not killed.is_set():
            killed.set()
            await kill(rig, "reader")
        return reply

    async def answer(url: str, data: bytes) -> Reply:
        task = asyncio.create_task(post(url, data))
        if step == "answering" and not killed.is_set():
            killed.set()
            await kill(rig, "reader")
        return await task

    bodies = [asked(300 + 50 * number, seed=STEPS[step]) for number in range(8)]
    rig.afresh()
    await rig.measured()
    try:
        replies = await asyncio.gather(
            *(rig.split.ask(demanded(body), COMPLETIONS, body, rig.ours.url, read=read, answer=answer) for body in bodies)
        )
        assert killed.is_set()
        assert [reply.status for reply in replies] == [200] * len(bodies)
        alone = [await post(rig.ours.url + COMPLETIONS, body.replace(b'"cache_salt": "', b'"cache_salt": "x')) for body in bodies]
        assert [token_ids(reply.body) for reply in replies] == [token_ids(reply.body) for reply in alone]
    finally:
        await restored(rig, "reader")
    proof = await rig.prove([200, 900], 2, seed=77)  # it is used again
    assert (proof.equal, proof.external_tokens) == (2, 1100)


@pytest.mark.parametrize("step", STEPS)
async def test_kill_9_of_the_answering_server_at_each_step_is_seen_and_what_was_read_is_cleaned(rig: Rig, step: str) -> None:
    killed = asyncio.Event()

    async def kill_once() -> None:
        if not killed.is_set():
            killed.set()
            await kill(rig, "ours")

    async def read(url: str, data: bytes) -> Reply:
        task = asyncio.create_task(rig.post(url, data))
        if step == "reading":
            await asyncio.sleep(0.05)  # it is on its way, and takes longer
            await kill_once()
        reply = await task
        if step == "between":
            await kill_once()
        return reply

    async def answer(url: str, data: bytes) -> Reply:
        task = asyncio.create_task(rig.post(url, data))
        if step == "answering":
            await asyncio.sleep(0.1)  # of the seconds that 400 tokens take
            await kill_once()
        return await task

    rig.afresh()
    await rig.measured()
    body = asked(3000, answer_tokens=400, seed=10 * STEPS[step])
    reply = await rig.split.ask(demanded(body), COMPLETIONS, body, rig.ours.url, read=read, answer=answer)
    assert killed.is_set()
    assert reply.status in {0, 500}, "no answer of a server that is dead: its worker asks the next one"
    assert rig.split.counts["read"] == 1
    await restored(rig, "ours")
    again = await rig.ask(body.replace(b'"cache_salt": "', b'"cache_salt": "x'))
    assert again.status == 200
    proof = await rig.prove([500, 700], 2, seed=78)
    assert (proof.equal, proof.external_tokens) == (2, 1200)
    async with asyncio.timeout(LEASE_S + 60):
        while await _held(rig):
            await asyncio.sleep(0.2)


async def _held(rig: Rig) -> bool:
    async with rig.session.get(f"{rig.reader.url}/metrics") as answer:
        page = await answer.text()
    return any(line.startswith("vllm:kv_cache_usage_perc") and float(line.split()[-1]) > 0 for line in page.splitlines())


def demanded(body: bytes) -> Demand:
    return demand_of(body, COMPLETIONS)[0]


def token_ids(body: bytes) -> list[int]:
    return list(json.loads(body)["choices"][0]["token_ids"])
