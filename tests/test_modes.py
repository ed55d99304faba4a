"""Modes of serving at the engine: its flags, by whose name it answers, what is counted of drafts, what it cannot be asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from batchsched.engines import Build
from batchsched.errors import EngineFailed
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.launch import command
from batchsched.executors.meters import Reading
from batchsched.executors.modes import mode_flags, refused
from batchsched.executors.probes import Drafts, page_of
from batchsched.executors.share import EnergyShare
from batchsched.fleet import Draft, Pool, ServedModel
from batchsched.variants import resolved
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import FakeServer, as_line
from tests.test_executors_driver import run, working

HOME = EngineHome("/x/python", "vllm", "0.32.0")
METRICS = Build("vllm", "0.32.0").facts("metric")
MODELS = resolved({
    "tiny": ServedModel("weights", engine_args=["--seed", "1"]),
    "guessing": ServedModel(variant_of="tiny", mode="speculative", draft=Draft("ngram", tokens=3, lookup_max=5)),
    "helped": ServedModel(variant_of="tiny", mode="speculative", draft=Draft("model", "team/small", 5)),
})  # fmt: skip


def config_of(line: list[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(line[line.index("--speculative-config") + 1])
    return found


def test_a_variants_engine_drafts_and_answers_by_the_name_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = command(HOME, Pool(), MODELS["guessing"], "guessing", 1)
    assert line[line.index("--served-model-name") + 1 :][:2] == ["tiny", "guessing"]
    lookup = {"prompt_lookup_min": 2, "prompt_lookup_max": 5}
    assert config_of(line) == {"method": "ngram", "num_speculative_tokens": 3, **lookup}
    assert line[-2:] == ["--seed", "1"]
    helped = {"method": "draft_model", "num_speculative_tokens": 5, "model": "team/small"}
    assert config_of(command(HOME, Pool(), MODELS["helped"], "helped", 1)) == helped
    Path("team/small").mkdir(parents=True)
    assert config_of(command(HOME, Pool(), MODELS["helped"], "helped", 1))["model"] == str(tmp_path / "team/small")
    assert "--speculative-config" not in command(HOME, Pool(), MODELS["tiny"], "tiny", 1)


def test_engines_of_before_make_no_drafts_by_a_model() -> None:
    assert mode_flags(Build("vllm", "0.13.0"), MODELS["guessing"])
    with pytest.raises(EngineFailed, match=r"vLLM 0\.13\.0 cannot make drafts by 'model'"):
        mode_flags(Build("vllm", "0.13.0"), MODELS["helped"])


def test_what_engines_with_drafts_refuse_is_seen_before_they_are_asked() -> None:
    asked = [b'{"prompt": "a"}', b'{"prompt": "a", "logit_bias": {"5": 1}}']
    assert refused(MODELS["guessing"], asked) == '"logit_bias"'
    assert refused(MODELS["guessing"], asked[:1]) == refused(MODELS["tiny"], asked) == ""


class Still:
    """A meter that counts a joule at each look."""

    def __init__(self) -> None:
        self.total_j = 0.0

    def read(self) -> Reading:
        self.total_j += 1.0
        return Reading(self.total_j, "rapl")

    def close(self) -> None:
        pass


def test_drafts_are_charged_to_chunks_as_joules_are() -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    share = EnergyShare(Still(), lambda: at, lambda: 0.0)
    share.drafted((100.0, 400.0, 50.0))  # made before we came
    share.open("a")
    share.open("b")
    share.add("a", 30)
    share.add("b", 10)
    share.drafted((108.0, 432.0, 66.0))
    share.drafted((2.0, 8.0, 4.0))  # it began anew
    took = {key: share.take(key) for key in "ab"}
    drafts = [(meter.drafts, meter.draft_tokens, meter.accepted_tokens) for meter in took.values() if meter]
    assert drafts == [(7.0, 28.0, 14.0), (3.0, 12.0, 6.0)]
    share.give_back("a", took["a"])
    again = share.take("a")
    assert again is not None
    assert again.drafts == 7.0


@pytest.mark.slow
async def test_a_worker_serves_chunks_of_a_model_in_another_way(tmp_path: Path) -> None:
    server = FakeServer([f"one two n{number}" for number in range(20)])
    server.models |= {"guessing": MODELS["guessing"]}
    for chunk in server.chunks:
        chunk.model, chunk.rename = "guessing", True
    outputs = await run(server, tmp_path)
    assert server.heard("register")[0].modes == ["speculative"]
    assert {line["response"]["body"]["model"] for line in outputs.values()} == {"tiny"}
    assert outputs["c4"]["response"]["body"]["choices"][0]["message"]["content"] == "n3 two one"
    meters = [meter for chunk in server.chunks for meter in chunk.meters if meter]
    assert sum(meter.drafts for meter in meters) == 40
    assert sum(meter.draft_tokens for meter in meters) == 120
    assert sum(meter.accepted_tokens for meter in meters) == 20


@pytest.mark.slow
async def test_requests_that_drafts_cannot_serve_are_given_back_for_the_plain_way(tmp_path: Path) -> None:
    server = FakeServer([])
    server.models |= {"guessing": MODELS["guessing"]}
    server.add([as_line("c1", "one two", min_p=0.1)])
    (chunk,) = server.chunks
    chunk.model, chunk.rename = "guessing", True
    async with working(server, tmp_path):
        await server.until(lambda: len(server.heard("release")) > 0)
        assert (server.heard("release")[0].reason, server.heard("release")[0].plain) == ("preempted", True)
        chunk.model, chunk.rename = "tiny", False
        await server.until_done()
        assert not server.heard("claim")[-1].lacking
        server.add([as_line("c2", "one two")])
        server.chunks[-1].model, server.chunks[-1].rename = "guessing", True
        await server.until_done()
    assert {line["response"]["status_code"] for line in server.outputs().values()} == {200}


@pytest.mark.slow
async def test_from_a_server_that_knows_of_no_such_chunks_nothing_more_is_taken_in_the_other_way(tmp_path: Path) -> None:
    server = FakeServer([])
    server.models |= {"guessing": MODELS["guessing"]}
    server.add([as_line("c1", "one two", min_p=0.1)])
    (chunk,) = server.chunks
    chunk.model, chunk.rename = "guessing", True
    async with working(server, tmp_path):
        await server.until(lambda: any(claim.lacking for claim in server.heard("claim")))
        assert server.heard("claim")[-1].lacking == ["guessing"]
        chunk.model, chunk.rename = "tiny", False
        await server.until_done()
    assert server.outputs()["c1"]["response"]["status_code"] == 200


@pytest.mark.slow
async def test_where_the_other_way_cannot_be_started_the_plain_one_is(tmp_path: Path) -> None:
    server = FakeServer(["one two"])
    flags = ["--fail-start"]
    server.models |= {"guessing": ServedModel(variant_of="tiny", mode="speculative", draft=Draft(), engine_args=flags)}
    (chunk,) = server.chunks
    chunk.model, chunk.rename = "guessing", True
    async with working(server, tmp_path):
        await server.until(lambda: any(claim.lacking == ["guessing"] for claim in server.heard("claim")))
        chunk.model, chunk.rename = "tiny", False
        await server.until_done()


@pytest.mark.slow
async def test_what_an_engine_counts_of_drafts() -> None:
    engine = FakeEngine()
    runner, port = await serve_engine(engine)
    try:
        async with aiohttp.ClientSession() as session:
            assert (await page_of(session, f"http://127.0.0.1:{port}")).drafts(METRICS) is None
            engine.drafting, engine.drafts, engine.accepted = 4, 5, 3
            assert (await page_of(session, f"http://127.0.0.1:{port}")).drafts(METRICS) == Drafts(5.0, 20.0, 3.0)
            assert (await page_of(session, f"http://127.0.0.1:{port}")).drafts({}) is None
    finally:
        await runner.cleanup()
