"""The GPU meters: the real nvidia-ml-py over a stub library in C whose counters wrap, restart, jump and stand still."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from batchsched.executors.meters import EnergyMeter, choose_meter, idle_power
from batchsched.executors.meters.counter import STALL_S, Counter
from batchsched.executors.meters.nvml import Board, Device, Gpus
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.fake_server import FakeServer
from tests.live import wait_for
from tests.nvml_stub import GPU_IS_LOST, NOT_SUPPORTED, Stub, library, stub
from tests.test_executors_driver import working

__all__ = ["library", "stub"]
GPU = Pool(gpu="A100-40")


class Clock:
    """Seconds as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Settings of a machine without RAPL."""
    return Worker(rapl_dir=str(tmp_path))


def board(clock: Clock, share: float = 1.0) -> Board:
    return Board(pynvml, Device(pynvml.nvmlDeviceGetHandleByIndex(0), share), clock)


# One board.


def test_a_counter_gives_the_joules_since_the_meter_was_made(stub: Stub) -> None:
    meter, clock = board(Clock()), Clock()
    assert meter.look() == 0
    stub.boards[0].energy += 1_500_000
    assert meter.look() == pytest.approx(1500.0)
    assert meter.source == "nvml_counter"
    assert clock.now == 0


@pytest.mark.parametrize("bits", [32, 64])
def test_a_counter_that_wraps_loses_nothing(stub: Stub, bits: int) -> None:
    clock = Clock()
    stub.boards[0].energy = 2**bits - 3_000
    meter = board(clock)
    clock.now = 1.0
    stub.boards[0].energy = 2_000
    assert meter.look() == pytest.approx(5.0)
    assert meter.source == "nvml_counter"


def test_a_counter_that_begins_anew_is_followed_from_zero(stub: Stub) -> None:
    clock = Clock()
    stub.boards[0].energy = 5_000_000_000
    meter = board(clock)
    clock.now = 1.0
    stub.boards[0].energy = 7_000
    assert meter.look() == pytest.approx(7.0)
    clock.now = 2.0
    stub.boards[0].energy = 9_000
    assert meter.look() == pytest.approx(9.0)


@pytest.mark.parametrize("to", [1_000_000 + 10**9, 900_000_000])
def test_a_counter_that_jumps_is_believed_no_more(stub: Stub, to: int) -> None:
    clock = Clock()
    stub.boards[0].energy = 1_000_000_000 if to < 1_000_000_000 else 1_000_000
    meter = board(clock)
    clock.now = 2.0
    stub.boards[0].energy = to
    assert meter.look() == pytest.approx(400.0)  # two seconds at 200 W
    assert meter.source == "nvml_power"
    clock.now = 4.0
    stub.boards[0].power = 100_000
    assert meter.look() == pytest.approx(700.0)


def test_a_counter_that_stands_still_gives_way_to_power_and_no_time_is_lost(stub: Stub) -> None:
    clock = Clock()
    meter = board(clock)
    clock.now = 5.0
    stub.boards[0].energy += 1_000_000
    assert meter.look() == pytest.approx(1000.0)
    clock.now = 5.0 + STALL_S - 0.1
    assert meter.look() == pytest.approx(1000.0)
    sources = [meter.source]
    clock.now = 5.0 + STALL_S
    assert meter.look() == pytest.approx(1000.0 + 200 * STALL_S)
    assert [*sources, meter.source] == ["nvml_counter", "nvml_power"]


@pytest.mark.parametrize(("error", "energy"), [(NOT_SUPPORTED, 1_000_000), (0, 0)])
def test_without_a_counter_power_is_integrated_by_trapezoids(stub: Stub, error: int, energy: int) -> None:
    clock = Clock()
    stub.boards[0].energy, stub.boards[0].energy_error = energy, error
    meter = board(clock)
    for second, milliwatts in ((1.0, 100_000), (3.0, 300_000), (3.5, 300_000)):
        clock.now, stub.boards[0].power = second, milliwatts
        joules = meter.look()
    assert joules == pytest.approx(150 + 400 + 150)
    assert meter.source == "nvml_power"


def test_a_look_that_fails_is_made_good_by_the_next(stub: Stub) -> None:
    clock = Clock()
    counted = board(clock)
    stub.boards[1].energy_error = NOT_SUPPORTED
    sampled = Board(pynvml, Device(pynvml.nvmlDeviceGetHandleByIndex(1)), clock)
    clock.now = 1.0
    stub.boards[0].energy += 100_000
    stub.boards[0].energy_error = stub.boards[1].power_error = GPU_IS_LOST
    assert (counted.look(), sampled.look()) == (0, 0)
    clock.now = 2.0
    stub.boards[0].energy_error = stub.boards[1].power_error = 0
    assert counted.look() == pytest.approx(100.0)
    assert sampled.look() == pytest.approx(400.0)


@pytest.mark.parametrize("error", [0, NOT_SUPPORTED])
def test_a_board_that_says_zero_or_nothing_is_unmeasured_never_zero(stub: Stub, error: int) -> None:
    stub.boards[0].energy_error = NOT_SUPPORTED
    stub.boards[0].power, stub.boards[0].power_error = 0, error
    clock = Clock()
    meter = board(clock)
    clock.now = 5.0
    assert meter.look() == 0
    assert meter.source == "unmeasured"


def test_a_counter_that_never_moves_is_told_from_one_that_is_looked_at_twice_at_once() -> None:
    clock = Clock()
    counter = Counter(lambda: 5, 1e-3, (), 3000.0, clock)
    assert counter.rise() == 0.0
    clock.now = STALL_S
    assert counter.rise() is None


# All boards of an engine.


def gpus(clock: Clock, count: int = 2) -> Gpus:
    return Gpus(pynvml, [Device(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)], clock=clock)


def test_the_sum_is_only_as_good_as_its_weakest_board(stub: Stub) -> None:
    clock = Clock()
    meter = gpus(clock)
    stub.boards[0].energy += 30_000
    stub.boards[1].energy += 12_000
    assert meter.read().energy_j == pytest.approx(42.0)
    assert meter.read().source == "nvml_counter"
    stub.boards[1].energy_error = NOT_SUPPORTED
    mixed = gpus(clock)
    assert mixed.source == "nvml_power"
    mixed.close()
    stub.boards[1].power = 0
    dumb = gpus(clock)
    assert dumb.read().source == "unmeasured"
    dumb.close()
    meter.close()


def test_power_is_sampled_five_times_a_second_beside_the_work(stub: Stub, worker: Worker) -> None:
    stub.boards[0].energy_error = NOT_SUPPORTED
    meter, why = choose_meter(GPU, worker)
    assert "every 200 ms" in why
    earliest, before, latest, calls = time.monotonic(), meter.read(), time.monotonic(), stub.calls
    wait_for(lambda: stub.calls >= calls + 4)
    least_s, after, most_s = time.monotonic() - latest, meter.read(), time.monotonic() - earliest
    assert stub.calls - calls <= most_s / 0.2 + 2  # one of them this reading's own
    assert after.source == "nvml_power"
    assert 200 * least_s - 1e-6 <= after.energy_j - before.energy_j <= 200 * most_s + 1e-6
    meter.close()


def chosen(worker: Worker, *engine_args: str, pids: list[int] | None = None) -> EnergyMeter:
    pool = Pool(gpu="A100-40", engine_args=list(engine_args))
    return choose_meter(pool, worker, lambda: pids or []).meter


def risen_j(meter: EnergyMeter, stub: Stub) -> float:
    """What a meter sees when board 0 takes 1 J and board 1 takes 10 J."""
    before = meter.read().energy_j
    stub.boards[0].energy += 1_000
    stub.boards[1].energy += 10_000
    seen = meter.read().energy_j - before
    meter.close()
    return seen


def test_only_the_engines_gpus_are_counted(stub: Stub, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert risen_j(chosen(worker), stub) == pytest.approx(1.0)
    assert risen_j(chosen(worker, "--tensor-parallel-size=2"), stub) == pytest.approx(11.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert risen_j(chosen(worker, "-tp", "2"), stub) == pytest.approx(10.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-0")
    assert risen_j(chosen(worker), stub) == pytest.approx(10.0)


def test_a_model_that_takes_more_gpus_than_its_pools_flags_say_is_measured_whole(stub: Stub, worker: Worker) -> None:
    small, large = ServedModel(), ServedModel(engine_args=["--tensor-parallel-size", "2"])
    assert risen_j(choose_meter(GPU, worker, models=[small]).meter, stub) == pytest.approx(1.0)
    assert risen_j(choose_meter(GPU, worker, models=[small, large]).meter, stub) == pytest.approx(11.0)
    less = ServedModel(engine_args=["-tp=1"])  # the model's own flag wins
    pool = Pool(gpu="A100-40", engine_args=["-tp=2"])
    assert risen_j(choose_meter(pool, worker, models=[less]).meter, stub) == pytest.approx(1.0)


@pytest.mark.parametrize("named", ["0", "MIG-0"])
def test_a_slice_is_charged_its_part_of_the_board_and_marked(
    stub: Stub, worker: Worker, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    stub.boards[0].slices = 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    meter, why = choose_meter(GPU, worker)
    assert meter.read().mark == "mig"
    assert "MIG" in why
    assert risen_j(meter, stub) == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("processes", "ours", "mark"),
    [(0, False, ""), (1, False, ""), (2, False, "shared"), (1, True, ""), (2, True, "shared")],
)
def test_a_board_that_computes_for_others_too_is_marked(
    stub: Stub, worker: Worker, processes: int, ours: bool, mark: str
) -> None:
    stub.boards[0].processes, stub.boards[0].first_pid = processes, os.getpid() if ours else 4_000_000
    meter = chosen(worker, pids=[os.getpid()])
    assert meter.read().mark == mark
    meter.close()


def test_boards_that_say_nothing_are_unmeasured_unless_the_pool_declares_their_power(stub: Stub, worker: Worker) -> None:
    stub.boards[0].energy_error = stub.boards[0].power_error = NOT_SUPPORTED
    silent, why = choose_meter(GPU, worker)
    assert silent.read().source == "unmeasured"
    assert "unmeasured" in why
    silent.close()
    declared = choose_meter(Pool(gpu="A100-40", power_w=90.0), worker).meter
    assert declared.read().source == "modelled"


def test_the_host_goes_with_its_gpus_by_share_and_under_its_own_source(stub: Stub, tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "0"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    meter, why = choose_meter(GPU, Worker(rapl_dir=str(tmp_path)))
    assert "50% of the host" in why
    (zone / "energy_uj").write_text("8000000")
    stub.boards[0].energy += 5_000
    reading = meter.read()
    assert reading.energy_j == pytest.approx(5.0)
    assert reading.host_j == pytest.approx(4.0)  # one of two GPUs: half of 8 J
    assert (reading.source, reading.host_source) == ("nvml_counter", "rapl")
    meter.close()


def test_a_host_without_counters_is_modelled(stub: Stub, worker: Worker) -> None:
    meter = chosen(worker)
    reading = meter.read()
    assert (reading.source, reading.host_source) == ("nvml_counter", "modelled")
    assert reading.host_j > 0
    meter.close()


# Idle.


async def test_idle_power_is_measured_where_something_measures(stub: Stub, worker: Worker) -> None:
    waited: list[float] = []

    async def three_seconds_at(joules: float) -> Any:
        meter = chosen(worker)

        async def wait(seconds: float) -> None:
            began = time.monotonic()
            stub.boards[0].energy += int(joules * 1000)
            time.sleep(0.2)
            waited.append(time.monotonic() - began)

        found = await idle_power(meter, wait)
        meter.close()
        return found

    began = time.monotonic()
    quiet = await three_seconds_at(10.0)  # 50 W where the 0.2 s are no longer than that, and the host's
    assert quiet.source == "nvml_counter"
    assert 10 / (time.monotonic() - began) < quiet.power_w < 10 / waited[0] + 10
    stub.boards[0].processes = 2
    assert await three_seconds_at(10.0) is None  # others use it
    stub.boards[0].processes, stub.boards[0].energy_error, stub.boards[0].power = 0, NOT_SUPPORTED, 0
    assert await three_seconds_at(10.0) is None


async def test_a_worker_tells_what_it_draws_before_its_first_model_and_charges_gpus_and_host(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchsched.executors.meters.idle.IDLE_S", 0.2)
    stub.boards[0].watts = 50  # its counter runs by itself
    server = FakeServer(["a [[slow 0.2]]"], pool=GPU)
    async with working(server, tmp_path, rapl_dir=str(tmp_path / "none")):
        await server.until_done()
        await server.until(lambda: any(message.idle for message in server.heard("heartbeat")))
    idle = next(message.idle for message in server.heard("heartbeat") if message.idle)
    assert idle.source == "nvml_counter"
    assert 45 < idle.power_w < 60  # the host's share is modelled
    meters = [meter for meter in server.chunks[0].meters if meter]
    assert {(meter.energy_source, meter.host_source) for meter in meters} == {("nvml_counter", "modelled")}
    assert sum(meter.energy_j for meter in meters) > 50 * 0.2
    assert sum(meter.host_j for meter in meters) > 0
