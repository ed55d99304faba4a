"""The GPUs' health, caps and clocks: the real nvidia-ml-py over a stub library, and workers that are really killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from batchsched.executors import tuning
from batchsched.executors.cards import Cards
from batchsched.executors.meters import choose_meter
from batchsched.executors.tuning import open_gpus, put_back
from batchsched.fleet import GPU_TYPES, Fleet, Pool, Slo
from batchsched.profiles.prior import prior
from batchsched.settings import Worker
from batchsched.wire import Card, Heartbeat
from tests.engine_fixture import ROOT
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.live import PATIENCE_S, wait_for
from tests.nvml_stub import NO_PERMISSION, NOT_SUPPORTED, Stub, library, stub
from tests.test_executors_driver import working

__all__ = ["library", "stub"]
V100 = next(name for name in GPU_TYPES if name.startswith("V100"))


def cards() -> Cards:
    return Cards.find(2)


def test_cards_tell_how_they_are(stub: Stub) -> None:
    stub.boards[0].throttle, stub.boards[0].temperature = 0x20 | 0x40 | 0x1, 91
    stub.boards[1].uncorrected, stub.boards[1].throttle = 3, 0x4
    first, second = cards().look() or []
    assert (first.uuid, first.name, first.throttled, first.temperature_c) == ("GPU-0", "Stub V100", ["heat"], 91)
    assert (first.power_cap_w, first.usual_cap_w, first.clock_mhz, first.top_clock_mhz) == (250.0, 250.0, 1380, 1380)
    assert first.trouble() == "slowed by heat at 91 C"
    assert second.trouble() == "3 memory errors that could not be corrected"
    assert second.throttled == ["power_cap"]


def test_what_an_old_card_does_not_tell_is_left_open(stub: Stub) -> None:
    stub.boards[0].ecc_error = stub.boards[0].cap_error = NOT_SUPPORTED
    first = (cards().look() or [])[0]
    assert (first.uncorrected_errors, first.power_cap_w) == (None, None)
    assert first.trouble() == ""


def test_a_card_that_fell_off_the_bus_is_told_by_the_name_that_it_had(
    stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = open_gpus(Pool(gpu=V100), [], str(tmp_path))
    gpus.look()
    stub.boards[0].lost = 1
    for _ in range(3):
        gpus.look()
    (card,) = gpus.seen or []
    assert (card.uuid, card.lost, card.broken, card.trouble()) == ("GPU-0", True, True, "answers no more")
    assert caplog.text.count("gives this worker no work") == 1
    gpus.close()


def test_without_nvml_there_is_nothing_to_see() -> None:
    assert Cards.find(2).look() is None
    gpus = open_gpus(Pool(gpu=V100, power_cap_w=150), [], "/nowhere")
    gpus.look()
    assert gpus.seen is None
    gpus.close()


@pytest.mark.parametrize(("reason", "said"), [("hardware", "slowed by its hardware"), ("power_brake", "for want of power")])
def test_trouble_is_told_in_words(reason: str, said: str) -> None:
    assert said in Card("GPU-0", throttled=[reason]).trouble()  # type: ignore[list-item]
    assert Card("GPU-0", throttled=["power_cap"], corrected_errors=9).trouble() == ""


def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes that are started from here tell what they set."""
    log = tmp_path / "set.log"
    monkeypatch.setenv("NVML_STUB_LOG", str(log))
    return log


@pytest.mark.slow
def test_a_cap_and_clocks_hold_while_a_worker_runs(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = watch(tmp_path, monkeypatch)
    gpus = open_gpus(Pool(gpu=V100, power_cap_w=150, clock_mhz=900), [], str(tmp_path))
    assert (stub.boards[0].cap, stub.boards[0].lock, stub.boards[1].cap) == (150_000, 900, 250_000)  # a replica of one GPU
    gpus.look()
    assert gpus.seen
    assert (gpus.seen[0].power_cap_w, gpus.seen[0].clock_mhz) == (150.0, 900)
    gpus.close()
    assert log.read_text().splitlines() == ["1 cap 150000", "1 lock 900", "1 cap 250000", "1 unlock 0"]
    assert not list((tmp_path / "gpus").glob("*.json"))


def test_cards_before_volta_get_application_clocks(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = watch(tmp_path, monkeypatch)
    monkeypatch.setenv("NVML_STUB_NO_LOCK", "1")
    stub.boards[0].lock_error = NOT_SUPPORTED
    open_gpus(Pool(gpu=V100, clock_mhz=900), [], str(tmp_path)).close()
    assert log.read_text().splitlines() == ["1 clock 900", "1 clock 1200"]


def test_without_the_right_to_set_it_the_worker_works_uncapped(
    stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub.boards[0].cap_error = NO_PERMISSION
    open_gpus(Pool(gpu=V100, power_cap_w=150), [], str(tmp_path)).close()
    assert stub.boards[0].cap == 250_000
    assert "gets no power cap of 150 W" in caplog.text
    assert not list((tmp_path / "gpus").glob("*.json"))  # nothing is to be put back


def test_who_may_not_put_back_leaves_the_record_to_who_may(stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that ran as root capped the card; the next one does not."""
    record = tmp_path / "gpus" / "GPU-0.json"
    record.parent.mkdir()
    record.write_text('{"uuid": "GPU-0", "power_cap_mw": 250000}', "utf-8")
    stub.boards[0].cap, stub.boards[0].cap_error = 150_000, NO_PERMISSION
    open_gpus(Pool(gpu=V100), [], str(tmp_path)).close()
    assert "no right to put them back" in caplog.text
    assert "nvidia-smi --id=GPU-0 --power-limit=250" in caplog.text
    assert msgspec.json.decode(record.read_bytes(), type=tuning.Before) == tuning.Before("GPU-0", 250_000)
    assert tuning.left_behind(str(tmp_path)) == {"GPU-0": "nvidia-smi --id=GPU-0 --power-limit=250"}
    stub.boards[0].cap_error = 0
    open_gpus(Pool(gpu=V100), [], str(tmp_path)).close()
    assert (stub.boards[0].cap, record.exists()) == (250_000, False)


def test_a_record_of_another_start_of_the_machine_is_dropped(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The restart has cleared what it names; the cap that the card has now is somebody else's choice."""
    caplog.set_level("INFO")
    monkeypatch.setattr(tuning, "_BOOT", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("second\n")
    folder, stub.boards[0].cap = tmp_path / "gpus", 200_000
    folder.mkdir()
    for uuid in ("GPU-0", "XPU-9"):
        (folder / f"{uuid}.json").write_text(f'{{"uuid": "{uuid}", "power_cap_mw": 250000, "locked": true, "boot": "first"}}')
    assert tuning.left_behind(str(tmp_path)) == {}
    open_gpus(Pool(gpu=V100), [], str(tmp_path)).close()
    assert (stub.boards[0].cap, "GPU-0: its machine was started anew" in caplog.text) == (200_000, True)
    assert [record.stem for record in folder.glob("*.json")] == ["XPU-9"], "that may be another machine's"
    (folder / "GPU-0.json").write_text('{"uuid": "GPU-0", "power_cap_mw": 250000, "boot": "second"}')
    open_gpus(Pool(gpu=V100), [], str(tmp_path)).close()
    assert stub.boards[0].cap == 250_000


@pytest.mark.slow
def test_a_record_names_the_start_of_the_machine(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_BOOT", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("first\n")
    gpus = open_gpus(Pool(gpu=V100, power_cap_w=150), [], str(tmp_path))
    record = msgspec.json.decode((tmp_path / "gpus" / "GPU-0.json").read_bytes(), type=tuning.Before)
    assert record == tuning.Before("GPU-0", 250_000, boot="first")
    gpus.close()
    (tmp_path / "gpus" / "GPU-0.json").write_bytes(msgspec.json.encode(record))
    (tmp_path / "boot_id").unlink()  # a machine that does not tell: it is put back all the same
    assert put_back(cards(), tmp_path / "gpus") == 1
    assert stub.boards[0].cap == 250_000


def test_what_was_put_back_by_hand_is_done(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "GPU-0.json").write_text('{"uuid": "GPU-0", "power_cap_mw": 250000, "clocks_mhz": [877, 1200]}', "utf-8")
    stub.boards[0].cap_error, stub.boards[0].app_clock = NO_PERMISSION, 900
    assert put_back(cards(), tmp_path) == 0
    stub.boards[0].app_clock = 1200
    assert put_back(cards(), tmp_path) == 1
    assert not list(tmp_path.glob("*.json"))


HOLDER = """
    import sys
    from batchsched.executors.tuning import open_gpus
    from batchsched.fleet import Pool
    gpus = open_gpus(Pool(gpu=sys.argv[1], power_cap_w=150, clock_mhz=900), [], sys.argv[2])
    print("set", flush=True)
    input()
"""


def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that has capped a GPU and does nothing further."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), V100, str(tmp_path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "set\n"
    return process


@pytest.mark.slow
def test_after_a_kill_everything_is_put_back(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = watch(tmp_path, monkeypatch)
    with holder(tmp_path) as process:
        assert log.read_text().splitlines() == ["1 cap 150000", "1 lock 900"]
        os.killpg(process.pid, signal.SIGKILL)  # all of it, as a machine's supervisor does
    wait_for(lambda: not list((tmp_path / "gpus").glob("*.json")))
    assert log.read_text().splitlines()[2:] == ["1 cap 250000", "1 unlock 0"]


@pytest.mark.slow
def test_where_the_watcher_died_too_the_next_worker_puts_back(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    watch(tmp_path, monkeypatch)
    with holder(tmp_path) as process:
        for child in psutil.Process(process.pid).children():
            child.kill()
        os.killpg(process.pid, signal.SIGKILL)
    assert len(list((tmp_path / "gpus").glob("*.json"))) == 1
    stub.boards[0].cap = 150_000
    gpus = open_gpus(Pool(gpu=V100), [], str(tmp_path))  # one without a cap of its own
    assert stub.boards[0].cap == 250_000
    gpus.close()
    assert not list((tmp_path / "gpus").glob("*.json"))


@pytest.mark.slow
def test_workers_of_one_folder_let_each_others_cards_be(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that a launcher starts share their folder."""
    log, capped = watch(tmp_path, monkeypatch), Pool(gpu=V100, power_cap_w=150)
    monkeypatch.setattr(tuning, "_PUT_BACK_S", 2.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first = open_gpus(capped, [], str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    open_gpus(capped, [], str(tmp_path)).close()
    open_gpus(Pool(gpu=V100), [], str(tmp_path)).close()
    monkeypatch.setattr(tuning, "_PUT_BACK_S", 0.1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    open_gpus(Pool(gpu=V100, power_cap_w=99), [], str(tmp_path)).close()
    assert "another worker, which runs on it too" in caplog.text
    assert log.read_text().splitlines() == ["1 cap 150000", "2 cap 150000", "2 cap 250000"]
    monkeypatch.setattr(tuning, "_PUT_BACK_S", 10.0)
    first.close()
    assert log.read_text().splitlines()[3:] == ["1 cap 250000"]


@pytest.mark.slow
def test_where_only_the_watcher_died_the_worker_itself_puts_back(stub: Stub, tmp_path: Path) -> None:
    import psutil

    gpus = open_gpus(Pool(gpu=V100, power_cap_w=150), [], str(tmp_path))
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess):  # another test's, on its way out
            if "batchsched.executors.tuning" in child.cmdline():
                child.kill()
    gpus.close()  # nobody but us can do it
    assert stub.boards[0].cap == 250_000
    assert not list((tmp_path / "gpus").glob("*.json"))


def test_a_record_of_a_card_that_is_gone_is_kept(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "GPU.json").write_text('{"uuid": "XPU-9", "power_cap_mw": 250000}', "utf-8")
    (tmp_path / "half.json").write_text('{"uuid": ', "utf-8")
    assert put_back(cards(), tmp_path) == 0
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_spare_pools_server_keeps_its_speed(stub: Stub, tmp_path: Path) -> None:
    slo = Slo(ttft_ms=100.0, tpot_ms=10.0)
    open_gpus(Pool(kind="spare", gpu=V100, power_cap_w=150, slo=slo, ceiling=4), [], str(tmp_path)).close()
    assert stub.boards[0].cap == 250_000


def test_where_nothing_measures_a_cap_is_what_is_modelled() -> None:
    said = choose_meter(Pool(gpu=V100, power_cap_w=150), Worker(rapl_dir="/nowhere")).why
    assert "1 x 150 W, as they are capped" in said


@pytest.mark.slow
async def test_heartbeats_tell_how_the_cards_are(stub: Stub, tmp_path: Path) -> None:
    server = FakeServer(["one two"], pool=Pool(gpu=V100))
    stub.boards[0].throttle = 0x40
    async with working(server, FakeEngine(), state_dir=str(tmp_path), rapl_dir=str(tmp_path)):
        await server.until(lambda: any(beat.cards for beat in server.heard("heartbeat")))
    cards = next(beat.cards for beat in server.heard("heartbeat") if beat.cards)
    assert [(card.uuid, card.throttled) for card in cards] == [("GPU-0", ["heat"])]


@pytest.mark.slow
async def test_a_worker_that_registers_again_shows_its_cards_before_it_asks_for_work(stub: Stub, tmp_path: Path) -> None:
    stub.boards[0].uncorrected = 1
    server = FakeServer(["one two"], pool=Pool(gpu=V100), heartbeat_s=30.0, lease_s=60.0)
    server.trouble["leases"] = [404]
    async with working(server, FakeEngine(), state_dir=str(tmp_path), rapl_dir=str(tmp_path)):
        await server.until(lambda: server.workers == 2 and server.heard("claim"))
    verbs = [verb for verb, _ in server.said]
    assert verbs[:5] == ["register", "heartbeat", "register", "heartbeat", "claim"]
    assert [card.broken for beat in server.heard("heartbeat") for card in beat.cards] == [True, True]


@pytest.mark.slow
async def test_a_card_that_hangs_holds_up_no_stop(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, free, answered = threading.Event(), threading.Event(), list[bool]()

    def look(_: object) -> None:
        asked.set()
        answered.append(free.wait(PATIENCE_S))

    monkeypatch.setattr(tuning.Gpus, "look", look)
    server = FakeServer(["one two"], pool=Pool(gpu=V100))
    try:
        async with working(server, FakeEngine(), state_dir=str(tmp_path), rapl_dir=str(tmp_path)):
            await server.until(asked.is_set)
        assert answered == []
        assert server.heard("bye")
    finally:
        free.set()


class Slow(FakeServer):
    """Its answer to the first heartbeat that says what the meter saw is lost, and at the next claim nobody is known."""

    numbers: dict[int, set[str]]
    """By which workers each message of their meters was said."""

    async def heartbeat(self, request: web.Request) -> web.Response:
        message, worker_id = msgspec.json.decode(await request.read(), type=Heartbeat), request.match_info["id"]
        if message.spent:
            first = not self.numbers
            self.numbers.setdefault(message.spent.number, set()).add(worker_id)
            if first:
                self.trouble["leases"] = [404]
                await asyncio.sleep(30)
        return await super().heartbeat(request)


@pytest.mark.slow
async def test_what_a_meter_saw_is_said_by_one_worker_when_it_registers_again_during_a_heartbeat(
    stub: Stub, tmp_path: Path
) -> None:
    """The server counts each number of a worker once; of two workers it would count it twice."""
    server = Slow(["one two"], pool=Pool(gpu=V100))
    server.numbers = {}
    async with working(server, FakeEngine(), state_dir=str(tmp_path), rapl_dir=str(tmp_path)):
        await server.until(lambda: any("worker_2" in said for said in server.numbers.values()))
    assert server.workers == 2
    assert all(len(said) == 1 for said in server.numbers.values()), server.numbers


def test_plans_count_on_a_cap_before_anything_is_measured() -> None:
    pools = {"free": Pool(gpu=V100), "capped": Pool(gpu=V100, power_cap_w=150), "loose": Pool(gpu=V100, power_cap_w=900)}
    fleet = Fleet({}, pools, {}, "home")
    free, capped, loose = (prior("m", name, fleet.gpu_of(name) or "", 7.0) for name in pools)
    assert capped.power_w < free.power_w == loose.power_w
    assert fleet.gpu_of("capped") == msgspec.structs.replace(GPU_TYPES[V100], tdp_w=150)
    assert not fleet.alike("free", "capped")
