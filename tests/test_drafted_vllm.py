"""A batch with drafts from another pool: real worker, real partner, real vLLM on both sides, and kill -9 of each at each step."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

from batchsched.executors.in_engine.batchsched_drafts import ALWAYS
from batchsched.executors.worker import run_worker
from batchsched.fleet import Draft, Pool, ServedModel
from batchsched.settings import Worker
from benchmarks.modes_engines import engine, free_port, tiny_models
from tests.engine_fixture import ROOT, real_engine
from tests.fake_server import Chunk, FakeServer, as_line
from tests.test_executors_driver import served
from tests.test_partner_vllm import PartnerProcess, writes_to

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1500)]
STAGES, EACH, CHUNK, CONTEXT = 6, 60, 20, 2048
REQUESTS = STAGES * EACH
WAIT_S = 400.0
OWN_W, PARTNER_W = 10.0, 100.0
CONFIG = """
[sites.home]
zone = "DE"
[pools.new]
[pools.old]
power_w = {power_w}
[models.tiny]
path = "{large}"
max_model_len = {context}
[models.drafted]
variant_of = "tiny"
mode = "draft_target"
partner_pool = "old"
draft = {{ method = "remote", model = "{small}", tokens = 4 }}
[worker]
state_dir = "{state}"
"""


def prompt(number: int) -> str:
    """Of 21 to 261 words."""
    return f"n{number} " + "wind " * (20 + 2 * (53 * number % 121))


READING, CHECKED = "vllm:num_requests_running", "vllm:spec_decode_num_draft_tokens_total"
WANTED: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}


class Worked:
    """A worker of the drafted model, and what it does to its engine."""

    def __init__(self, server: FakeServer, folder: Path) -> None:
        self.server, self._folder = server, folder

    def engine(self) -> psutil.Process:
        """Its engine's first process."""
        return next(each for each in psutil.Process().children(recursive=True) if writes_to(each, self._folder))

    def kill(self) -> None:
        """Its engine, all processes at once."""
        os.killpg(os.getpgid(self.engine().pid), signal.SIGKILL)

    async def counts(self, name: str) -> float:
        """A counter of its engine; 0 while it does not answer."""
        with suppress(aiohttp.ClientError, StopIteration, psutil.Error, ValueError):
            line = self.engine().cmdline()
            url = f"http://127.0.0.1:{line[line.index('--port') + 1]}/metrics"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                page = (await answer.text()).splitlines()
            return sum(float(each.rsplit(" ", 1)[1]) for each in page if each.startswith((f"{name}{{", f"{name} ")))
        return 0.0

    async def until_more(self, name: str, than: float = 0.0) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.counts(name) <= than:
                await asyncio.sleep(0.02)

    def told(self) -> dict[str, Any]:
        """What its proposer counted last."""
        found: dict[str, Any] = json.loads((self._folder / "drafts.json").read_text("utf-8"))
        return found


@asynccontextmanager
async def a_worker(server: FakeServer, folder: Path, port: int) -> AsyncGenerator[Worked]:
    stop = asyncio.Event()
    async with served(server.app()) as url:
        mine = Worker(server_url=url, partner_url=f"http://127.0.0.1:{port}", state_dir=str(folder), startup_timeout_s=WAIT_S)
        server.worker = asyncio.create_task(run_worker(mine, "local", stop=stop))
        try:
            yield Worked(server, folder)
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)


def the_server(small: Path, large: Path) -> FakeServer:
    pool = Pool(max_in_flight=16, power_w=OWN_W)
    server = FakeServer([], pool=pool, model="drafted", endpoint="/v1/completions", lease_s=20.0, heartbeat_s=0.5)
    draft = Draft("remote", str(small), 4)
    base = ServedModel(str(large), max_model_len=CONTEXT)
    server.models = {
        "drafted": msgspec.structs.replace(base, variant_of="tiny", mode="draft_target", partner_pool="old", draft=draft)
    }
    return server


def given_out(server: FakeServer, stage: int) -> None:
    """The chunks of a stage."""
    for start in range(stage * EACH, (stage + 1) * EACH, CHUNK):
        lines = [as_line(f"c{n}", prompt(n), endpoint="/v1/completions", **WANTED) for n in range(start, start + CHUNK)]
        chunk = Chunk(f"chunk_{start}", start + 1, lines, "drafted", "/v1/completions")
        chunk.rename = True
        server.chunks.append(chunk)


async def alone(url: str) -> dict[str, str]:
    """The answers of the larger model alone."""
    turns, found = asyncio.Semaphore(16), dict[str, str]()

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        body = {"model": "tiny", "prompt": prompt(number), **WANTED}
        async with turns, session.post(f"{url}/v1/completions", json=body) as answer:
            found[f"c{number}"] = (await answer.json())["choices"][0]["text"]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as session:
        await asyncio.gather(*(one(session, number) for number in range(REQUESTS)))
    return found


async def test_kill_9_of_each_part_at_each_step_loses_nothing_and_answers_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = real_engine()
    small, large = tiny_models(home, ROOT / ".models")
    monkeypatch.setenv(ALWAYS, "1")  # drafts do not pay on shared cores, and would go off
    config, port = tmp_path / "batchsched.toml", free_port()
    values = {"small": small, "large": large, "context": CONTEXT, "state": tmp_path / "partner", "power_w": PARTNER_W}
    config.write_text(CONFIG.format(**values), "utf-8")
    partner = PartnerProcess(config, port, "drafted")
    try:
        with engine(home, tmp_path / "alone", "tiny", large) as plain:
            expected = await alone(plain.url)
        await partner.ready()
        server = the_server(small, large)
        async with a_worker(server, tmp_path / "worker", port) as worker:
            await killed_in_turn(worker, partner)
    finally:
        partner.process.terminate()
        assert partner.process.wait(60) == 0
    outputs = server.outputs()
    assert {name: line["response"]["body"]["choices"][0]["text"] for name, line in outputs.items()} == expected
    assert {line["response"]["body"]["model"] for line in outputs.values()} == {"tiny"}
    recorded = Counter(result.line for message in server.heard("results") for result in message.results)
    assert set(recorded.values()) == {1}
    meters = [meter for chunk in server.chunks for meter in chunk.meters if meter]
    assert sum(meter.draft_tokens for meter in meters) > sum(meter.accepted_tokens for meter in meters) > 0
    assert sum(meter.energy_j for meter in meters) > 2 * OWN_W * sum(meter.busy_s for meter in meters)  # the partner's too
    assert {meter.energy_source for meter in meters} == {"modelled"}


async def killed_in_turn(worker: Worked, partner: PartnerProcess) -> None:
    """The target, the engine that drafts, and the partner with its service: each while the target reads prompts, and while it
    checks drafts. After each death of the other side the target first goes on alone, and has drafts again once that is back."""
    server = worker.server
    given_out(server, 0)
    await worker.until_more(READING)
    worker.kill()
    await worker.until_more(CHECKED)
    worker.kill()
    await server.until_done(WAIT_S)
    deaths = [(the_engine, READING), (the_engine, CHECKED), (the_partner, READING), (the_partner, CHECKED)]
    for stage, (dies, step) in enumerate(deaths, 1):
        before = await worker.counts(CHECKED)
        given_out(server, stage)
        await worker.until_more(step, before if step == CHECKED else 0.0)
        await dies(partner)
        await server.until_done(WAIT_S)
    given_out(server, len(deaths) + 1)
    await worker.until_more(CHECKED, await worker.counts(CHECKED))
    await server.until_done(WAIT_S)
    assert worker.told()["faults"] == 0


async def the_engine(partner: PartnerProcess) -> None:
    """Dies, and another one is there."""
    before = await partner.ready()
    for process in partner.engines():
        process.kill()
    while (await partner.ready()).engine_url == before.engine_url:
        await asyncio.sleep(0.2)


async def the_partner(partner: PartnerProcess) -> None:
    """Dies, its engine with it, and is started again."""
    partner.process.kill()
    partner.process.wait()
    partner.start()
    await partner.ready()
