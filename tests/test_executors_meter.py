"""Energy meters: RAPL over a made folder, the models, and how a reading is shared out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchsched.executors.meters import Reading, choose_meter
from batchsched.executors.meters.modelled import CpuSeconds, Modelled
from batchsched.executors.meters.rapl import Rapl
from batchsched.executors.share import EnergyShare
from batchsched.executors.tally import Tally
from batchsched.executors.unsaid import Unsaid
from batchsched.fleet import GPU_TYPES, VCPU_IDLE_W, VCPU_MAX_W, Pool
from batchsched.operations import NOBODY
from batchsched.settings import Worker
from batchsched.wire import EnergySource
from tests.live import PATIENCE_S


def rapl(folder: Path, zone: str, name: str, uj: int, range_uj: int = 1_000_000_000) -> Path:
    """A zone as Linux shows it; its counter."""
    made = folder / zone
    made.mkdir()
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{uj}\n")
    (made / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return made / "energy_uj"


class Clock:
    """Seconds as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rapl_adds_packages_and_memory_up_and_leaves_out_what_is_counted_there_already(tmp_path: Path) -> None:
    counted = [
        rapl(tmp_path, "intel-rapl:0", "package-0", 0),
        rapl(tmp_path, "intel-rapl:1", "package-1-die-0", 0),
        rapl(tmp_path, "intel-rapl:0:0", "dram", 0),
    ]
    left_out = [
        rapl(tmp_path, "intel-rapl:0:1", "core", 0),
        rapl(tmp_path, "intel-rapl:0:2", "uncore", 0),
        rapl(tmp_path, "intel-rapl:2", "psys", 0),
        rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    meter = Rapl.find(tmp_path)
    assert meter is not None
    assert meter.read() == Reading(0.0, "rapl")
    for joules, counter in enumerate(counted, 1):
        counter.write_text(f"{joules}000000\n")
    for counter in left_out:
        counter.write_text("500000000\n")
    assert meter.read() == Reading(6.0, "rapl")
    assert meter.by_domain_j == {"package": 3.0, "dram": 3.0}
    meter.close()


def test_rapl_counters_wrap_at_their_range_and_begin_anew_when_set_to_zero(tmp_path: Path) -> None:
    clock = Clock()
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 262_142_328_850, 262_143_328_850)
    meter = Rapl([("package", counter.parent)], clock)
    clock.now = 10.0
    counter.write_text("2000000\n")
    assert meter.read().energy_j == pytest.approx(3.0)
    counter.write_text("502000000\n")
    clock.now = 20.0
    assert meter.read().energy_j == pytest.approx(503.0)
    clock.now = 20.1
    counter.write_text("0\n")  # by root's hand: 262 kJ in 0.1 s cannot be
    assert meter.read().energy_j == pytest.approx(503.0)
    clock.now = 21.0
    counter.write_text("1000000\n")
    assert meter.read().energy_j == pytest.approx(504.0)
    assert meter.read().source == "rapl"
    meter.close()


def test_rapl_that_stands_still_is_unmeasured_but_memory_alone_may_be_missing(tmp_path: Path) -> None:
    clock = Clock()
    package, memory = rapl(tmp_path, "intel-rapl:0", "package-0", 5), rapl(tmp_path, "intel-rapl:0:0", "dram", 5)
    meter = Rapl([("package", package.parent), ("dram", memory.parent)], clock)
    clock.now = 30.0
    package.write_text("7000005\n")
    assert meter.read() == Reading(7.0, "rapl")
    clock.now = 60.0
    assert meter.read().source == "unmeasured"
    meter.close()


def test_a_rapl_counter_that_cannot_be_read_now_is_caught_up_with(tmp_path: Path) -> None:
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = Rapl([("package", counter.parent)])
    counter.write_text("")
    assert meter.read() == Reading(0.0, "rapl")
    counter.write_text("4000000\n")
    assert meter.read().energy_j == 4.0
    meter.close()


def test_rapl_is_looked_at_more_often_than_it_wraps(tmp_path: Path) -> None:
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0, range_uj=1_000_000)
    meter = Rapl([("package", counter.parent)])
    counter.write_text("900000\n")
    deadline = time.monotonic() + PATIENCE_S
    while meter.by_domain_j["package"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert meter.by_domain_j["package"] == pytest.approx(0.9)
    meter.close()


def test_rapl_is_chosen_for_a_cpu_pool_where_the_host_has_it(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, why = choose_meter(Pool(), Worker(rapl_dir=str(tmp_path)))
    assert isinstance(meter, Rapl)
    assert "package" in why
    meter.close()
    assert isinstance(choose_meter(Pool(), Worker(rapl_dir=str(tmp_path / "absent"))).meter, Modelled)
    (tmp_path / "intel-rapl:0" / "name").write_text("psys\n")
    assert isinstance(choose_meter(Pool(), Worker(rapl_dir=str(tmp_path))).meter, Modelled)


@pytest.mark.parametrize(
    ("pool", "power_w"),
    [
        (Pool(gpu="T4", power_w=50.0), 50.0),
        (Pool(gpu="T4"), GPU_TYPES["T4"].tdp_w),
        (Pool(gpu="L4", engine_args=["-tp=2"]), 144.0),
    ],
)
def test_without_a_meter_watts_are_modelled_and_marked(pool: Pool, power_w: float, tmp_path: Path) -> None:
    meter, why = choose_meter(pool, Worker(rapl_dir=str(tmp_path)))
    earliest, before, latest = time.monotonic(), meter.read(), time.monotonic()
    time.sleep(0.05)
    least_s, after, most_s = time.monotonic() - latest, meter.read(), time.monotonic() - earliest
    assert after.source == "modelled"
    assert "modelled" in why
    assert (after.host_j > 0) == (pool.power_w is None)  # what the pool declares is the whole replica's
    assert power_w * least_s - 1e-6 <= after.energy_j - before.energy_j <= power_w * most_s + 1e-6


@pytest.mark.parametrize(
    ("pool", "busy_w", "idle_w", "said"),
    [
        (Pool(gpu="T4"), 70.0, 8.0, "8 W: 1 x 8 W, Cloud Carbon Footprint"),
        (Pool(gpu="V100", engine_args=["-tp", "2"]), 600.0, 70.0, "70 W: 2 x 35 W, Cloud Carbon Footprint"),
        (Pool(gpu="H200"), 700.0, 84.0, "84 W: 1 x 84 W, 12%, the median of the catalogue's GPUs, of the TDP"),
        (Pool(gpu="T4", power_w=50.0), 50.0, 8.0, "8 W: 1 x 8 W, Cloud Carbon Footprint"),
        (Pool(gpu="T4", power_w=5.0), 5.0, 5.0, "5 W: 1 x 8 W, Cloud Carbon Footprint"),
        (Pool(gpu="nobody's", power_w=100.0), 100.0, 12.0, "12%, the median"),
        (Pool(power_w=38.0), 38.0, 6.4, "an idle vCPU"),
    ],
)
def test_a_modelled_replica_draws_idle_watts_while_nothing_is_in_flight(
    pool: Pool, busy_w: float, idle_w: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    share: EnergyShare
    meter, why = choose_meter(pool, Worker(rapl_dir="/nowhere"), busy=lambda: share.in_flight, here=False)
    assert said in why
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    clock.now = 100.0  # before any chunk
    share.open("a", "batch_1")
    clock.now = 110.0  # its input is on its way
    share.busy(True)
    clock.now = 111.0
    share.busy(True)
    clock.now = 115.0
    share.busy(False)
    clock.now = 125.0
    taken = share.take("a")
    share.close("a")
    clock.now = 1125.0
    told = {part.kind: part for part in share.spent()}
    assert taken is not None
    assert taken.energy_j == pytest.approx(20 * idle_w + 5 * busy_w)
    assert told["idle"].energy_j == pytest.approx(1100 * idle_w)
    assert told["metered"].energy_j == pytest.approx(taken.energy_j + told["idle"].energy_j) == meter.read().energy_j


def test_what_is_here_says_nothing_about_an_engine_elsewhere(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    settings = Worker(rapl_dir=str(tmp_path))
    assert choose_meter(Pool(), settings, here=False).meter.read() == Reading(0.0, "unmeasured")
    assert choose_meter(Pool(gpu="T4"), settings, here=False).meter.read().host_j == 0
    assert isinstance(choose_meter(Pool(power_w=90.0), settings, here=False).meter, Modelled)


def test_cpu_time_of_the_engines_processes_decides_the_model_of_a_cpu(tmp_path: Path) -> None:
    meter, _ = choose_meter(Pool(), Worker(rapl_dir=str(tmp_path)), lambda: [os.getpid()])
    earliest, most_cpu_s, before_j = time.monotonic(), time.process_time(), meter.read().energy_j
    latest, least_cpu_s = time.monotonic(), time.process_time()
    while time.process_time() < least_cpu_s + 0.3:
        pass
    least_s, least_cpu_s = time.monotonic() - latest, time.process_time() - least_cpu_s
    joules = meter.read().energy_j - before_j
    most_s, most_cpu_s = time.monotonic() - earliest, time.process_time() - most_cpu_s
    idle_w, ticks_s = (os.cpu_count() or 1) * VCPU_IDLE_W, 0.05  # CPU time is told in hundredths of a second
    assert joules >= idle_w * least_s + (least_cpu_s - ticks_s) * (VCPU_MAX_W - VCPU_IDLE_W)
    assert joules <= idle_w * most_s + (most_cpu_s + ticks_s) * (VCPU_MAX_W - VCPU_IDLE_W)


def test_cpu_seconds_never_fall_when_processes_come_and_go() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pids = [os.getpid(), child.pid]
        used = CpuSeconds(lambda: pids)
        before = used()
        child.communicate(b"\n")
    assert used() >= before


class SetMeter:
    """A meter that shows what it is told."""

    joules = host_joules = 0.0
    source: EnergySource = "rapl"

    def read(self) -> Reading:
        return Reading(self.joules, self.source, self.host_joules, "modelled", "shared")

    def close(self) -> None:
        pass


def test_energy_is_split_by_tokens_and_none_is_lost_or_given_twice() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    meter.joules = 100.0  # nobody's: before any chunk
    share.open("a")
    share.open("b")
    share.busy(True)
    share.add("a", 30)
    share.add("b", 10)
    meter.joules, meter.host_joules = 140.0, 20.0
    first = share.take("a")
    meter.joules = 150.0  # no answers in this interval: halved
    share.close("a")
    other = share.take("b")
    assert first is not None
    assert other is not None
    assert (first.energy_j, other.energy_j) == (30.0, 15.0)
    assert (first.host_j, other.host_j) == (15.0, 5.0)
    assert (first.energy_source, first.host_source, first.mark) == ("rapl", "modelled", "shared")
    assert min(first.busy_s, other.busy_s) > 0
    meter.joules = 170.0
    share.add("b", 1)
    last = share.take("b")
    assert last is not None
    assert last.energy_j == 20.0
    assert last.started_at == other.ended_at
    assert share.take("a") is None


def test_what_an_engine_of_many_users_takes_is_charged_by_tokens_late_but_once() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC), lambda: 0.0)
    share.saw(1000)
    share.open("a")
    share.busy(True)

    def taken_j(joules: float, counted: float, tokens: int) -> float:
        meter.joules += joules
        share.add("a", tokens)
        share.saw(counted)
        taken = share.take("a")
        assert taken is not None
        return taken.energy_j

    assert taken_j(100.0, 1400, 0) == 0.0  # what we asked for is not ready: who used it is not known yet
    assert taken_j(100.0, 1800, 200) == pytest.approx(50.0)  # 200 of 800, of 200 J
    assert taken_j(100.0, 2200, 400) == pytest.approx(100.0)  # 600 of 1200, of 300 J, less what was charged
    assert taken_j(100.0, 100, 10_000) == pytest.approx(250.0)  # the engine began anew; never more than all
    share.close("a")
    share.saw(5100)  # others only
    share.open("b")
    meter.joules += 10.0
    share.add("b", 5)
    share.saw(5105)
    taken = share.take("b")
    assert taken is not None
    assert taken.energy_j == pytest.approx(10.0)


def test_on_a_shared_engine_that_always_has_work_of_ours_each_hour_is_split_by_itself() -> None:
    meter, clock_s = SetMeter(), 0.0
    share = EnergyShare(meter, lambda: datetime.now(UTC), lambda: clock_s)
    share.saw(0)
    share.open("a")
    share.busy(True)
    counted, charged_j = 0.0, 0.0

    def hour(others_per_s: float, watts: float) -> float:
        """We make 100 tokens a second beside others; what comes back tells of them 20 s later."""
        nonlocal counted, charged_j, clock_s
        before_j = charged_j
        for tick in range(360):
            clock_s += 10.0
            meter.joules += watts * 10
            counted += (others_per_s + 100) * 10
            if tick % 2:
                share.add("a", 2000)
            share.saw(counted)
            taken = share.take("a")
            assert taken is not None
            charged_j += taken.energy_j
        return charged_j - before_j

    for _ in range(4):
        by_day_j = hour(900.0, 1000.0)
        assert by_day_j == pytest.approx(100 * 3600, rel=0.01)  # a tenth of the tokens
    told_j = sum(part.energy_j for part in share.spent() if part.kind == "others")
    assert told_j == pytest.approx(4 * 900 * 3600, rel=0.06)  # told while it goes on, all but the last minutes
    by_night_j = [hour(0.0, 400.0) for _ in range(3)]
    assert by_night_j[1:] == pytest.approx([400 * 3600] * 2, rel=0.15)  # all that it draws, once the day is forgotten
    assert hour(900.0, 1000.0) < 0.3 * by_night_j[2]
    share.close("a")
    parts = share.spent()
    told_j += sum(part.energy_j for part in parts if part.kind != "metered")
    assert charged_j + told_j == pytest.approx(meter.joules)


def test_a_failed_start_is_charged_with_the_next_one_and_forgotten_with_an_engine_that_nobody_used() -> None:
    meter = SetMeter()
    share = EnergyShare(meter, lambda: datetime.now(UTC))
    share.starting()
    meter.joules = 30.0  # and it failed
    share.starting()
    meter.joules = 50.0
    started = share.started(2.0)
    assert started is not None
    assert (started.energy_j, started.startup_s) == (50.0, 2.0)
    share.starting()
    meter.joules = 70.0
    share.stopped()
    assert share.started(2.0) is None


def test_what_did_not_arrive_is_said_again_and_a_late_answer_loses_nothing() -> None:
    meter = SetMeter()
    unsaid = Unsaid(EnergyShare(meter, lambda: datetime.now(UTC)), Tally(NOBODY))
    meter.joules = 5.0
    first = unsaid.now()
    meter.joules = 12.0
    assert unsaid.now() is first, "its answer was lost, or has not come yet"
    unsaid.arrived(first)
    second = unsaid.now()
    unsaid.arrived(first)  # of a heartbeat that overlapped
    assert unsaid.now() is second
    meter.joules = 14.0
    said = [first, *unsaid.last()]
    assert [each.number for each in said if each] == [1, 2, 3]
    metered_j = [part.energy_j for each in said if each for part in each.parts if part.kind == "metered"]
    assert metered_j == pytest.approx([5.0, 7.0, 2.0])
