"""Profile runs on a fake engine: what is sent, what is measured, what is kept, and going on after a stop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from batchsched.clock import RandomIds, SystemClock
from batchsched.errors import EngineFailed
from batchsched.executors.engine import AttachedEngine
from batchsched.executors.meters import Reading
from batchsched.executors.probing import Asker
from batchsched.executors.profile_run import setting_of
from batchsched.executors.profiling import LEAST_ARRIVALS, Bench, Profiler, Step
from batchsched.executors.trial_log import TrialLog
from batchsched.fleet import Pool, ServedModel
from batchsched.wire import EnergySource, Probe, Trial
from tests.fake_engine import FakeEngine, serve
from tests.test_trials import trial

FULL, RATED = Probe("full", 12, 6), Probe("rated", 12, 6, 100.0)
SETTING = "fake"


class Stepping:
    """A meter that shows ten joules more each time."""

    source: EnergySource = "rapl"

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> Reading:
        self.joules += 10.0
        return Reading(self.joules, self.source, self.joules / 10, "modelled")

    def close(self) -> None:
        pass


@asynccontextmanager
async def asking(engine: FakeEngine) -> AsyncGenerator[Asker]:
    runner, port = await serve(engine)
    try:
        async with aiohttp.ClientSession() as session:
            yield Asker(session, f"http://127.0.0.1:{port}", engine.model, 20.0)
    finally:
        await runner.cleanup()


def profiler(asker: Asker, folder: Path, *, setting: str = SETTING, seconds: float = 0.05, in_flight: int = 4) -> Profiler:
    bench = Bench("p", "tiny", setting, in_flight, seconds)
    return Profiler(bench, asker, Stepping(), TrialLog(folder, "p", "tiny"), RandomIds(), SystemClock().now)


def times(count: int) -> Callable[[Sequence[Trial]], bool]:
    return lambda trials: len(trials) >= count


def quiet(_step: Step) -> None:
    pass


async def test_at_once_as_many_are_in_flight_as_asked_and_every_request_has_its_size() -> None:
    engine = FakeEngine(delay_s=0.01)
    async with asking(engine) as asker:
        ran = await asker.at_once(FULL, 10, 4, random.Random(1))
    assert (len(ran.answers), ran.unanswered, engine.peak_in_flight) == (10, 0, 4)
    assert {(answer.input_tokens, answer.output_tokens) for answer in ran.answers} == {(12, 6)}
    assert len(engine.computed) == 10  # no two prompts are alike, so no cache helps
    assert ran.seconds >= 0.03


async def test_arrivals_do_not_wait_for_answers_and_latencies_are_told() -> None:
    engine = FakeEngine(delay_s=0.15, token_s=0.01)
    async with asking(engine) as asker:
        ran = await asker.at_rate(RATED, 0.1, LEAST_ARRIVALS, random.Random(1))
    assert len(ran.answers) >= LEAST_ARRIVALS
    assert engine.peak_in_flight >= LEAST_ARRIVALS / 2
    for answer in ran.answers:
        assert answer.ttft_s is not None
        assert answer.tpot_s is not None
        assert answer.ttft_s >= 0.15
        assert answer.tpot_s >= 0.01
        assert answer.ttft_s + answer.tpot_s * (answer.output_tokens - 1) < ran.seconds


async def test_arrivals_are_a_poisson_process() -> None:
    probe = Probe("rated", 4, 1, 400.0)
    engine = FakeEngine()
    async with asking(engine) as asker:
        counts = [len((await asker.at_rate(probe, 0.2, 1, random.Random(seed))).answers) for seed in range(6)]
    assert 60 <= sum(counts) / len(counts) <= 105  # 80 expected, and the first comes at once
    assert len(set(counts)) > 1


async def test_a_trial_has_tokens_energy_and_what_the_engine_draws_at_rest(tmp_path: Path) -> None:
    steps: list[Step] = []
    began = time.monotonic()
    async with asking(FakeEngine()) as asker:
        found = await profiler(asker, tmp_path).run([FULL, RATED], times(2), steps.append)
    took_s = time.monotonic() - began
    assert [(step.probe.name, step.number, step.of, step.trials) for step in steps] == [
        ("full", 1, 2, 1), ("full", 1, 2, 2), ("rated", 2, 2, 1), ("rated", 2, 2, 2),
    ]  # fmt: skip
    first, second = found[FULL]
    assert first.requests == second.requests >= 4
    assert first.requests % 4 == 0
    assert (first.input_tokens, first.output_tokens) == (12 * first.requests, 6 * first.requests)
    assert (first.energy_j, first.host_j, first.energy_source, first.host_source) == (10.0, 1.0, "rapl", "modelled")
    assert first.rest_w is not None
    assert 11 / took_s < first.rest_w < 1.01 * 11 / 0.05  # how late a busy machine wakes nobody knows
    assert first.latencies == []
    rated = found[RATED][0]
    assert len(rated.latencies) == rated.requests >= LEAST_ARRIVALS
    assert rated.ttft_s is not None


async def test_a_run_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with asking(engine) as asker:
        running = asyncio.create_task(profiler(asker, tmp_path).run([FULL, RATED], times(3), quiet))
        log = TrialLog(tmp_path, "p", "tiny")
        while len(log.trials) < 2:
            await asyncio.sleep(0.01)
            log = TrialLog(tmp_path, "p", "tiny")
        running.cancel()
        await asyncio.wait({running})
        before = TrialLog(tmp_path, "p", "tiny").trials
        told: list[Step] = []
        found = await profiler(asker, tmp_path).run([FULL, RATED], times(3), told.append)
    assert 2 <= len(before) < 6
    assert [trial.id for trial in [*found[FULL], *found[RATED]]][: len(before)] == [trial.id for trial in before]
    assert len(told) == 6 - len(before)
    assert len({trial.requests for trial in found[FULL]}) == 1  # as large as before the stop


async def test_trials_of_another_setting_are_kept_and_do_not_count(tmp_path: Path) -> None:
    async with asking(FakeEngine()) as asker:
        await profiler(asker, tmp_path, setting="vllm 1").run([FULL], times(1), quiet)
        found = await profiler(asker, tmp_path, setting="vllm 2").run([FULL], times(1), quiet)
    assert [trial.setting for trial in found[FULL]] == ["vllm 2"]
    assert len(TrialLog(tmp_path, "p", "tiny").trials) == 2


def test_another_model_behind_the_same_name_is_another_setting() -> None:
    engine = AttachedEngine("http://127.0.0.1:9")
    one, other = (setting_of(engine, Pool(site="s", gpu="T4"), ServedModel(path), "rapl") for path in ("m-1", "m-2"))
    assert one != other


def test_names_that_make_one_file_name_are_told_apart(tmp_path: Path) -> None:
    """A pool `a` with a model `b-c`, and a pool `a-b` with a model `c`."""
    one, other = TrialLog(tmp_path, "a", "b-c"), TrialLog(tmp_path, "a-b", "c")
    assert one.path == other.path
    made = trial(pool="a", model="b-c", probe=FULL, setting=SETTING)
    one.add(made)
    again = TrialLog(tmp_path, "a-b", "c")
    assert again.trials == [made]
    assert again.of(made.probe, made.setting) == []
    assert one.of(made.probe, made.setting) == [made]


async def test_a_line_that_a_crash_cut_off_costs_only_itself(tmp_path: Path) -> None:
    async with asking(FakeEngine()) as asker:
        await profiler(asker, tmp_path).run([FULL], times(2), quiet)
        log = TrialLog(tmp_path, "p", "tiny")
        log.path.write_bytes(log.path.read_bytes()[:-40])
        assert len(TrialLog(tmp_path, "p", "tiny").trials) == 1
        await profiler(asker, tmp_path).run([FULL], times(2), quiet)
    assert len(TrialLog(tmp_path, "p", "tiny").trials) == 2


async def test_an_engine_that_refuses_everything_is_not_profiled(tmp_path: Path) -> None:
    engine = FakeEngine(max_len=4)
    async with asking(engine) as asker:
        with pytest.raises(EngineFailed, match="maximum context length"):
            await profiler(asker, tmp_path).run([FULL], times(1), quiet)
    assert TrialLog(tmp_path, "p", "tiny").trials == []
