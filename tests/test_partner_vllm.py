"""A real worker, a real partner, real vLLM on both sides; each is killed in turn while a batch runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest

from batchsched.executors.partner_told import PartnerTold
from batchsched.executors.probes import page_of
from batchsched.executors.worker import run_worker
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.fake_server import Chunk, FakeServer, as_line
from tests.processes import BATCHSCHED, ROOT
from tests.test_executors_driver import served
from tests.test_split_vllm import nixl_home

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1800)]
REQUESTS, CHUNK = 240, 40
CONFIG = """
[sites.home]
zone = "DE"
[pools.new]
[pools.old]
[models.tiny]
path = "{path}"
max_model_len = 2048
[models.split]
variant_of = "tiny"
mode = "prefill_decode"
partner_pool = "old"
[worker]
state_dir = "{state}"
"""

WORKER = """
[worker]
server_url = "{url}"
partner_url = "http://127.0.0.1:{port}"
state_dir = "{state}"
"""


class PartnerProcess:
    """`batchsched partner`, started and killed."""

    def __init__(self, config: Path, port: int, variant: str = "split") -> None:
        self._command = [*BATCHSCHED, "partner", "--pool", "old", "--for", variant]
        self._command += ["--port", str(port), "--config", str(config)]
        self.port = port
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self._command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        return self.process

    def engines(self) -> list[psutil.Process]:
        """The processes of its engine."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    async def ready(self) -> PartnerTold:
        async with aiohttp.ClientSession() as session, asyncio.timeout(900):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.port}/partner") as answer:
                        told = msgspec.json.decode(await answer.read(), type=PartnerTold)
                        if told.engine_url:
                            return told
                await asyncio.sleep(0.2)


@pytest.fixture
def partner(tiny_model: ServedModel, tmp_path: Path) -> Generator[PartnerProcess]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    nixl_home()
    config = tmp_path / "batchsched.toml"
    config.write_text(CONFIG.format(path=tiny_model.path, state=tmp_path / "partner"), "utf-8")
    process = PartnerProcess(config, port)
    yield process
    process.process.terminate()
    assert process.process.wait(60) == 0


def the_server(tiny_model: ServedModel) -> FakeServer:
    """A batch of prompts of 60 to 900 words."""
    server = FakeServer([], pool=Pool(max_in_flight=16), model="split", lease_s=20.0, heartbeat_s=0.5)
    base = msgspec.structs.replace(tiny_model, max_model_len=2048)
    server.models = {"split": msgspec.structs.replace(base, variant_of="tiny", mode="prefill_decode", partner_pool="old")}
    wanted: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    lines = [as_line(f"c{n}", f"n{n} " + "wind " * (60 + 7 * (n % 120)), **wanted) for n in range(1, REQUESTS + 1)]
    server.chunks = [
        Chunk(f"chunk_{start}", start + 1, lines[start : start + CHUNK], "split", "/v1/chat/completions")
        for start in range(0, REQUESTS, CHUNK)
    ]
    for chunk in server.chunks:
        chunk.rename = True
    return server


async def test_kill_9_of_each_part_loses_nothing_and_answers_nothing_twice(
    partner: PartnerProcess, tiny_model: ServedModel, tmp_path: Path
) -> None:
    server, stop = the_server(tiny_model), asyncio.Event()
    await partner.ready()
    settings = Worker(partner_url=f"http://127.0.0.1:{partner.port}", state_dir=str(tmp_path / "worker"))
    async with served(server.app()) as url, aiohttp.ClientSession() as session:
        server.worker = asyncio.create_task(run_worker(msgspec.structs.replace(settings, server_url=url), "local", stop=stop))
        try:
            await results(server, 10)
            for engine in partner.engines():
                engine.kill()  # the engine that reads
            await results(server, 70)
            ours = next(each for each in psutil.Process().children(recursive=True) if writes_to(each, tmp_path / "worker"))
            os.killpg(os.getpgid(ours.pid), signal.SIGKILL)  # the engine that answers
            await results(server, 130)
            partner.process.kill()  # the partner itself; its engine goes with it
            partner.process.wait()
            await results(server, 180)
            partner.start()
            told = await partner.ready()
            await results(server, REQUESTS - 1)
            await server.until_done(60)
            async with session.get(f"{told.engine_url}/metrics") as answer:
                assert answer.status == 200
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)
    outputs = server.outputs()
    assert set(outputs) == {f"c{number}" for number in range(1, REQUESTS + 1)}
    assert all(line["response"]["body"]["usage"]["completion_tokens"] == 24 for line in outputs.values())
    assert all(line["response"]["body"]["model"] == "tiny" for line in outputs.values())
    assert {chunk.state for chunk in server.chunks} == {"finished"}


async def test_kill_9_of_the_worker_leaves_no_engine_and_the_next_one_has_the_partner(
    partner: PartnerProcess, tiny_model: ServedModel, tmp_path: Path
) -> None:
    server = the_server(tiny_model)
    told = await partner.ready()
    async with served(server.app()) as url, aiohttp.ClientSession() as session:

        async def prompt_tokens() -> float:
            return (await page_of(session, told.engine_url)).tokens(("vllm:prompt_tokens_total",)) or 0.0

        config = tmp_path / "worker.toml"
        config.write_text(WORKER.format(url=url, port=partner.port, state=tmp_path / "worker"), "utf-8")
        first = a_worker(config)
        await results(server, 30)
        engine = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait()
        async with asyncio.timeout(60):
            while psutil.wait_procs(engine, timeout=0)[1]:
                await asyncio.sleep(0.1)
        for chunk in server.chunks:
            if chunk.state == "leased":  # its lease ends
                server.steal(chunk)
                chunk.state = "waiting"
        read = await prompt_tokens()
        second = a_worker(config)
        try:
            await results(server, REQUESTS - 1)
            await server.until_done(60)
            assert await prompt_tokens() > read
        finally:
            second.terminate()
            assert await asyncio.to_thread(second.wait, 60) == 0
    outputs = server.outputs()
    assert set(outputs) == {f"c{number}" for number in range(1, REQUESTS + 1)}
    assert {chunk.state for chunk in server.chunks} == {"finished"}


def a_worker(config: Path) -> subprocess.Popen[bytes]:
    command = [*BATCHSCHED, "worker", "--pool", "local", "--config", str(config)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


async def results(server: FakeServer, count: int) -> None:
    """More than so many. However slow the machine is: what fails is that for minutes none comes."""
    while (before := len(server.results)) <= count:
        await server.until(lambda known=before: len(server.results) > known, 180)  # type: ignore[misc]


def writes_to(process: psutil.Process, folder: Path) -> bool:
    """Is it an engine whose log lies there?"""
    with contextlib.suppress(OSError, psutil.Error):
        return str(folder) in str(Path(f"/proc/{process.pid}/fd/1").readlink())
    return False
