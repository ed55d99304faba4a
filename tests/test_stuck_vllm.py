"""A reading engine that is well by its own word and does nothing any more (SIGSTOP of all of it that computes): what it has read
cannot be fetched. Real vLLM on both sides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
import pytest_asyncio

from batchsched.executors import split, transfer
from batchsched.executors.outputs import Reply
from batchsched.executors.probes import healthy, page_of
from batchsched.executors.worker import run_worker
from batchsched.fleet import ServedModel
from batchsched.lines import COMPLETIONS
from batchsched.settings import Worker
from tests.split_proof import Rig, two_servers
from tests.test_executors_driver import served
from tests.test_partner_vllm import PartnerProcess, results, the_server
from tests.test_partner_vllm import partner as partner
from tests.test_split_vllm import asked, demanded, nixl_home, token_ids

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1500)]
TCP = ("UCX_TLS", "tcp,self")
"""As between two machines: by shared memory even a stopped process can be read."""
LOOK_S = 1.0
"""As often as a driver looks."""


class Core:
    """What computes of an engine, beneath an API server that goes on. `above`: a process above it."""

    def __init__(self, above: int) -> None:
        self._all = [each for each in psutil.Process(above).children(recursive=True) if each.name().startswith("VLLM")]
        assert self._all

    def stop(self) -> None:
        """SIGSTOP."""
        for each in self._all:
            each.suspend()

    def go_on(self) -> None:
        """SIGCONT."""
        for each in self._all:
            with suppress(psutil.Error):
                each.resume()


async def test_a_partner_starts_an_engine_anew_that_stands_still(
    partner: PartnerProcess, tiny_model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "READ_S", split.STUCK_S)  # in place of 300 s
    server, stop = the_server(tiny_model), asyncio.Event()
    later, server.chunks = server.chunks[4:], server.chunks[:4]
    before = (await partner.ready()).engine_url
    settings = Worker(partner_url=f"http://127.0.0.1:{partner.port}", state_dir=str(tmp_path / "worker"))
    async with served(server.app()) as url, aiohttp.ClientSession() as session:
        server.worker = asyncio.create_task(run_worker(msgspec.structs.replace(settings, server_url=url), "local", stop=stop))
        try:
            await results(server, 10)
            Core(partner.process.pid).stop()
            assert await healthy(session, before)
            async with asyncio.timeout(900):
                while (told := await partner.ready()).engine_url == before:
                    await asyncio.sleep(0.2)
            await results(server, 159)
            server.chunks += later
            await results(server, 239)
            await server.until_done(60)
            assert (await page_of(session, told.engine_url)).tokens(("vllm:prompt_tokens_total",))  # it is used again
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)
    outputs = server.outputs()
    assert set(outputs) == {f"c{number}" for number in range(1, 241)}
    assert all(line["response"]["body"]["usage"]["completion_tokens"] == 24 for line in outputs.values())
    assert {chunk.state for chunk in server.chunks} == {"finished"}


# Two servers without a worker.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Rig]:
    """Two servers that have not met yet. What was read is kept for long, so that a slow machine changes nothing."""
    model = msgspec.structs.replace(tiny_model, max_model_len=4608)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*TCP)
        patch.setattr(transfer, "LEASE_S", 900)
        patch.setattr(split, "FRESH_S", 900.0)
        async with two_servers(nixl_home(), model, tmp_path_factory.mktemp("stuck")) as both:
            yield both


@asynccontextmanager
async def looked_at(rig: Rig) -> AsyncGenerator[None]:
    """Its split is told what our engine fetches, as a driver tells it."""

    async def look() -> None:
        while True:
            if found := (await page_of(rig.session, rig.ours.url)).fetching():
                rig.split.fetching(found, time.monotonic())
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("step", ["before they met", "between the steps"])
async def test_what_cannot_be_fetched_is_answered_all_the_same(rig: Rig, step: str) -> None:
    core, all_read, count = Core(rig.reader.pids()[0]), asyncio.Event(), 0
    rig.afresh()
    await rig.measured()
    bodies = [asked(1000 + 50 * number, seed=len(step)) for number in range(8)]

    async def read(url: str, data: bytes) -> Reply:
        nonlocal count
        reply = await rig.post(url, data)
        count += 1
        if count == len(bodies):
            core.stop()
            all_read.set()
        await all_read.wait()
        return reply

    def ask(body: bytes) -> asyncio.Task[Reply]:
        demand = demanded(body)
        return asyncio.create_task(rig.split.ask(demand, COMPLETIONS, body, rig.ours.url, read=read, answer=rig.post))

    try:
        async with looked_at(rig):
            tasks = [ask(body) for body in bodies]
            await all_read.wait()
            replies = await asyncio.gather(*tasks)
        assert await healthy(rig.session, rig.reader.url)  # by its own word
        print(f"{step}: {dict(rig.split.counts)}, {rig.known.said}")
        assert [reply.status for reply in replies] == [200] * len(bodies)
        if step != "before they met":  # the handshake has a limit of its own, and then the engine computes by itself
            assert rig.known.anew
            assert rig.split.counts["stuck"] == rig.split.counts["repeated"] > 0
        again = [body.replace(b'"cache_salt": "', b'"cache_salt": "x') for body in bodies]
        alone = [await rig.post(rig.ours.url + COMPLETIONS, body) for body in again]
        assert [token_ids(reply.body) for reply in replies] == [token_ids(reply.body) for reply in alone]
    finally:
        core.go_on()  # what it sends now, nobody waits for any more
        await rig.measured()
    proof = await rig.prove([200, 900], 2, seed=77)  # it is used again
    assert (proof.equal, proof.external_tokens) == (2, 1100)
