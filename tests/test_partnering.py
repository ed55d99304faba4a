"""A worker with a partner: prompts go through it, its joules are charged, and nothing hangs on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from batchsched.errors import EngineFailed
from batchsched.executors import counting, driver, partnering
from batchsched.executors import worker as worker_module
from batchsched.executors.meters import Choice, Reading, idle
from batchsched.executors.partner_told import PartnerTold
from batchsched.executors.probes import page_of
from batchsched.executors.profile_run import Server, Wanted, run_profile
from batchsched.executors.pulse import Pulse
from batchsched.executors.worker import run_worker
from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.settings import Worker
from batchsched.wire import Probe
from tests.fake_engine import fake_home
from tests.fake_server import FakeServer, as_line
from tests.test_executors_driver import served
from tests.test_partner import BASE, DRAFTED, OLD, SPLIT, a_partner, at, engine_of, ready, told
from tests.test_partner import often as often
from tests.test_partner import port as port

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def oftener(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker too."""
    monkeypatch.setattr(counting, "EVERY_S", 0.05)
    monkeypatch.setattr(partnering, "pause_after", lambda *_, **__: 0.1)


@asynccontextmanager
async def a_worker(server: FakeServer, folder: Path, port: int, **settings: Any) -> AsyncGenerator[None]:
    stop, home = asyncio.Event(), folder / "home"
    python = fake_home(home) if not home.exists() else home / "python"
    async with served(server.app()) as url:
        mine = Worker(server_url=url, engine_python=str(python), state_dir=str(folder / "worker"), drain_s=1.0)
        mine = msgspec.structs.replace(mine, partner_url=at(port), **settings)
        server.worker = asyncio.create_task(run_worker(mine, "local", stop=stop))
        try:
            yield
            stop.set()
            assert await server.worker == 0
        finally:
            stop.set()
            await asyncio.gather(server.worker, return_exceptions=True)


def a_server(count: int = 60) -> FakeServer:
    server = FakeServer(
        [f"one two n{number}" for number in range(1, count + 1)], model="split", pool=Pool(power_w=10.0), chunk_lines=20
    )
    server.models = {"split": SPLIT}
    for chunk in server.chunks:
        chunk.rename = True
    return server


def whole(server: FakeServer, count: int = 60) -> None:
    answers = {line["response"]["body"]["choices"][0]["message"]["content"] for line in server.outputs().values()}
    assert answers == {f"n{number} two one" for number in range(1, count + 1)}
    assert all(line["error"] is None for line in server.outputs().values())


async def test_prompts_go_through_the_partner_and_its_joules_are_charged(tmp_path: Path, port: int) -> None:
    server = a_server()
    async with a_partner(tmp_path, port):
        await ready(port)
        async with a_worker(server, tmp_path, port):
            await server.until_done()
            handed = await _handed(port)
        whole(server)
    assert handed == 60
    meters = [meter for chunk in server.chunks for meter in chunk.meters if meter]
    assert sum(meter.energy_j for meter in meters) > 10.0 * sum(meter.busy_s for meter in meters)  # more than our own 10 W
    assert {meter.energy_source for meter in meters} == {"modelled"}
    told = [message.modes for message in server.heard("register")]
    assert told == [["speculative"], ["speculative", "prefill_decode"]]  # as soon as the partner says what it is for


async def _handed(port: int) -> float:
    """Prompts that the partner's engine kept for others."""
    found = await told(port)
    assert isinstance(found, PartnerTold)
    async with aiohttp.ClientSession() as session, session.get(f"{found.engine_url}/metrics") as answer:
        page = await answer.text()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("fake:kept_total"))


async def test_without_its_partner_a_worker_answers_alone_and_with_it_again_once_it_is_there(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = a_server(20)
    async with a_worker(server, tmp_path, port):
        await server.until_done()
        whole(server, 20)
        assert [message.modes for message in server.heard("register")] == [["speculative"]]
        async with a_partner(tmp_path, port):
            with caplog.at_level("INFO"):
                await server.until(lambda: "reads prompts for us" in caplog.text)
            server.add([as_line(f"d{number}", f"x y{number}") for number in range(10)])
            server.chunks[-1].rename = True
            await server.until_done()
            assert len(server.outputs()) == 30
            assert server.heard("register")[-1].modes == ["speculative", "prefill_decode"]
            assert await _handed(port) == 10


async def test_a_worker_whose_partner_has_gone_says_so_until_there_is_one_again(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partnering, "GONE_S", 0.0)
    server = a_server(20)

    def says(*modes: str) -> bool:
        return bool(server.heard("register")) and server.heard("register")[-1].modes == ["speculative", *modes]

    async with a_worker(server, tmp_path, port):
        for _ in range(2):
            async with a_partner(tmp_path, port):
                await server.until(lambda: says("prefill_decode"))
            await server.until(says)
        await server.until_done()
    whole(server, 20)


async def test_a_workers_idle_watts_are_those_of_its_own_hardware(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steady:
        energy_j = 0.0

        def read(self) -> Reading:
            self.energy_j += 1.0
            return Reading(self.energy_j, "rapl")

        def close(self) -> None:
            """Nothing to end."""

    monkeypatch.setattr(worker_module, "choose_meter", lambda *_, **__: Choice(Steady(), "known"))
    monkeypatch.setattr(idle, "IDLE_S", 0.1)
    server = a_server(20)
    async with a_partner(tmp_path, port):
        await ready(port)
        async with a_worker(server, tmp_path, port):
            await server.until(lambda: any(message.idle for message in server.heard("heartbeat")))
            await server.until_done()
    assert {message.idle.source for message in server.heard("heartbeat") if message.idle} == {"rapl"}  # the partner's is modelled


async def test_the_partners_engine_may_die_in_mid_work(tmp_path: Path, port: int) -> None:
    server = a_server(100)
    async with a_partner(tmp_path, port):
        await ready(port)
        async with a_worker(server, tmp_path, port):
            await server.until(lambda: len(server.results) > 5)
            kill_engine(tmp_path)
            await server.until_done()
        whole(server, 100)


def kill_engine(folder: Path) -> None:
    """kill -9 of the partner's."""
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and engine_of(each, folder / "partner"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each.name), signal.SIGKILL)


async def test_while_all_wait_for_the_partners_engine_ours_is_not_taken_for_dead(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested, rest = [0], Pulse.rest

    def counted(pulse: Pulse) -> None:
        rested[0] += 1
        rest(pulse)

    monkeypatch.setattr(Pulse, "rest", counted)
    monkeypatch.setattr(driver, "HEALTH_EVERY_S", 0.05)
    server = FakeServer(["one [[freeze reader]]"], model="split", pool=Pool(power_w=10.0))
    server.models = {"split": SPLIT}
    async with a_partner(tmp_path, port):
        reader = (await ready(port)).engine_url
        async with a_worker(server, tmp_path, port), aiohttp.ClientSession() as session:
            while not (await page_of(session, reader)).in_flight({"running": "vllm:num_requests_running"}):
                await asyncio.sleep(0.02)
            before = rested[0]
            while rested[0] < before + 3:
                await asyncio.sleep(0.02)
            kill_engine(tmp_path)
            await server.until_done()
    assert next(iter(server.outputs().values()))["error"] is None


@pytest.mark.parametrize("qps", [None, 40.0])
async def test_a_profile_is_measured_by_way_of_the_partner_and_says_what_it_took(
    tmp_path: Path, port: int, qps: float | None
) -> None:
    fleet = Fleet(
        {"home": Site("WORLD")},
        {"new": Pool(power_w=10.0, max_in_flight=4, models=["split"]), "old": OLD},
        {"tiny": BASE, "split": SPLIT},
        "home",
    )
    probe = Probe("few", 20, 4, qps)
    wanted = Wanted("new", "split", lambda _: [probe], lambda trials: len(trials) > 1, 0.1)
    async with a_partner(tmp_path, port):
        await ready(port)
        mine = Worker(engine_python=str(tmp_path / "home" / "python"), state_dir=str(tmp_path / "profile"), partner_url=at(port))
        found = await run_profile(wanted, mine, Server("", ""), fleet, say=print, tell=print)
    trials = found.trials[probe]
    for trial in trials:
        assert trial.unanswered == 0
        assert trial.partner is not None
        assert trial.partner.energy_j > 0
        assert trial.partner.sent_tokens >= trial.input_tokens > 0
        assert trial.partner.sent_bytes == 1024.0 * trial.partner.sent_tokens
        assert trial.partner.link_bytes_per_s is not None
        assert (trial.ttft_s is not None) == (qps is not None)


async def test_a_profile_with_drafts_says_what_the_partner_took(tmp_path: Path, port: int) -> None:
    fleet = Fleet(
        {"home": Site("WORLD")},
        {"new": Pool(power_w=10.0, max_in_flight=4, models=["split"]), "old": OLD},
        {"tiny": BASE, "split": DRAFTED},
        "home",
    )
    probe = Probe("few", 20, 4)
    wanted = Wanted("new", "split", lambda _: [probe], lambda trials: len(trials) > 1, 0.1, "draft_target")

    async with a_partner(tmp_path, port, DRAFTED):
        await ready(port)
        mine = Worker(engine_python=str(tmp_path / "home" / "python"), state_dir=str(tmp_path / "profile"), partner_url=at(port))
        found = await run_profile(wanted, mine, Server("", ""), fleet, say=print, tell=print)
    for trial in found.trials[probe]:
        assert trial.unanswered == 0
        assert trial.partner is not None
        assert trial.partner.energy_j > 0
        assert trial.total_j is not None
        assert trial.total_j > trial.energy_j + trial.host_j
        assert trial.partner.link_bytes_per_s is not None


@pytest.mark.parametrize(("variant", "what"), [(SPLIT, "reads prompts"), (DRAFTED, "drafts")])
async def test_no_profile_of_the_mode_is_measured_without_a_partner(
    tmp_path: Path, port: int, variant: ServedModel, what: str
) -> None:
    fleet = Fleet({"home": Site("WORLD")}, {"new": Pool(power_w=10.0)}, {"tiny": BASE, "split": variant}, "home")
    wanted = Wanted("new", "split", lambda _: [Probe("few", 20, 4)], bool, 0.1)
    mine = Worker(engine_python=str(fake_home(tmp_path / "home")), state_dir=str(tmp_path / "profile"), partner_url=at(port))
    with pytest.raises(EngineFailed, match=f"Nobody {what} for 'split'"):
        await run_profile(wanted, mine, Server("", ""), fleet, say=print, tell=print)
