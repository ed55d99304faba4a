"""Profile runs on the real vLLM with the tiny model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from batchsched.executors.engine import VllmEngine
from batchsched.executors.probing import Asker
from batchsched.executors.profile_run import Server, Wanted, run_profile
from batchsched.executors.profiling import Step
from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.profiles.grid import DECODE, grid
from batchsched.profiles.phases import phases
from batchsched.profiles.trials import summarise
from batchsched.settings import Worker
from batchsched.wire import Probe, Trial
from tests.engine_fixture import MAX_LEN

pytestmark = [pytest.mark.engine, pytest.mark.slow]
FULL = Probe("sharegpt p25", 24, 24)


async def test_the_engine_computes_exactly_the_tokens_that_a_probe_asks_for(vllm: VllmEngine) -> None:
    async with aiohttp.ClientSession() as session:
        asker = Asker(session, vllm.url, "tiny", 60.0)
        at_once = await asker.at_once(FULL, 12, 4, random.Random(1))
        at_rate = await asker.at_rate(Probe("sharegpt p25", 24, 24, 20.0), 0.5, 8, random.Random(2))
        prefill = await asker.at_once(Probe("prefill", 200, 1), 4, 4, random.Random(3))
        means = await asker.means()
    assert {(answer.input_tokens, answer.output_tokens) for answer in [*at_once.answers, *at_rate.answers]} == {(24, 24)}
    assert {(answer.input_tokens, answer.output_tokens) for answer in prefill.answers} == {(200, 1)}
    assert at_once.unanswered + at_rate.unanswered + prefill.unanswered == 0
    assert all(answer.ttft_s and answer.ttft_s > 0 and answer.tpot_s is not None for answer in at_rate.answers)
    assert {name: count > 0 for name, (_, count) in means.items()} == {"ttft_s": True, "tpot_s": True}


async def test_a_whole_run_on_an_engine_that_runs_already(vllm: VllmEngine, tmp_path: Path) -> None:
    pool, model = Pool(max_in_flight=8), ServedModel("unused", max_model_len=MAX_LEN)
    fleet = Fleet({"home": Site("DE")}, {"p": pool}, {"tiny": model}, "home")
    seen: list[int | None] = []

    def probes(context_tokens: int | None) -> Sequence[Probe]:
        seen.append(context_tokens)
        return grid(["sharegpt", "longbench"], ["p50"], [4.0], context_tokens)[0]

    said: list[str] = []
    steps: list[Step] = []
    settings = Worker(engine_url=vllm.url, state_dir=str(tmp_path))
    wanted = Wanted("p", "tiny", probes, lambda trials: len(trials) >= 3, 1.0)
    profiled = await run_profile(wanted, settings, Server("", ""), fleet, say=said.append, tell=steps.append)
    assert seen == [MAX_LEN]
    assert [probe.name for probe in profiled.trials] == ["sharegpt p50", "sharegpt p50 prefill", DECODE.name, "sharegpt p50"]
    assert len(steps) == 12
    trials: list[Trial] = [trial for each in profiled.trials.values() for trial in each]
    for trial in trials:
        assert trial.unanswered == 0
        assert trial.input_tokens == trial.requests * trial.probe.input_tokens
        assert trial.output_tokens == trial.requests * trial.probe.output_tokens
        assert trial.ttft_s is not None
        assert trial.energy_source in {"modelled", "rapl"}
        assert len(trial.latencies) == (trial.requests if trial.probe.qps else 0)
    full = summarise(profiled.trials[Probe("sharegpt p50", 160, 140)])
    assert full.energy_j_per_token  # whether it is noise depends on what else the machine does
    told = phases(trials)  # each is None where the machine was so unsteady that noise drowned it
    assert told.prefill_s is None or told.decode_s is None or told.decode_s.mean > told.prefill_s.mean
