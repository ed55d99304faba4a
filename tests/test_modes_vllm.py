"""Drafts on the same engine with the real vLLM on the CPU: answers are those of the plain one, and drafts are counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchsched.executors.engine import VllmEngine
from batchsched.executors.probing import Asker
from batchsched.fleet import Draft, Pool, ServedModel
from batchsched.settings import Worker
from batchsched.variants import resolved
from batchsched.wire import Probe
from tests.engine_fixture import MAX_LEN, real_engine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]
PROMPTS = [
    "one two three four " * 6,
    "red green blue red green blue red green",
    *(f"item {n}, item {n + 1}, item" for n in range(6)),
]
WRITTEN = 48
UP_TO_THE_END = [[10 + (7 * at) % 50 for at in range(MAX_LEN - left)] for left in (WRITTEN, 5)]
"""Prompts, in tokens, whose answers reach the end of the context: no drafts are checked beyond it."""
START_S = 400.0


async def answers(url: str, model: str) -> list[dict[str, Any]]:
    """Of every prompt, greedily."""
    found: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session:
        for prompt in (*PROMPTS, *UP_TO_THE_END):
            body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": WRITTEN, "temperature": 0}
            if not isinstance(prompt, str):
                body |= {"ignore_eos": True, "max_tokens": MAX_LEN - len(prompt)}
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                found.append(await answer.json())
    return found


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [answer["choices"][0]["text"] for answer in found]


async def drafted(tiny: ServedModel, draft: Draft, folder: Path, plain: list[dict[str, Any]]) -> float:
    """A variant's engine answers as the plain one does, by the name of the base; the share of its drafts that stayed."""
    models = resolved({"tiny": tiny, "other": ServedModel(variant_of="tiny", mode="speculative", draft=draft)})
    engine = VllmEngine(real_engine(), Pool(), Worker(state_dir=str(folder), startup_timeout_s=START_S))
    try:
        await engine.start(models["other"], "other")
        assert engine.served == "other"
        assert not engine.takes_up("tiny")
        assert engine.takes_up("other")
        found = await answers(engine.url, "other")
        assert texts(found) == texts(plain)
        assert [answer["usage"]["total_tokens"] for answer in found[-2:]] == [MAX_LEN, MAX_LEN]
        assert {answer["model"] for answer in found} == {"tiny"}
        async with aiohttp.ClientSession() as session:
            asker = Asker(session, engine.url, "other", 60.0, engine.dialect.metrics)
            before = await asker.drafts()
            ran = await asker.at_once(Probe("sharegpt p25", 24, 24), 8, 4, random.Random(1))
            after = await asker.drafts()
            assert ran.unanswered == 0
            assert before is not None
            assert after is not None
            assert 0 < before.drafts <= after.drafts
            assert before.tokens >= before.accepted >= 0
            refused = {"model": "other", "prompt": "a", "min_p": 0.5, "max_tokens": 2}
            async with session.post(f"{engine.url}/v1/completions", json=refused) as answer:
                assert answer.status == 400
        return before.accepted / before.tokens
    finally:
        await engine.stop()


async def test_ngrams_of_the_request_are_drafted(tiny_model: ServedModel, vllm: VllmEngine, tmp_path: Path) -> None:
    plain = await answers(vllm.url, "tiny")
    await drafted(tiny_model, Draft("ngram", tokens=3, lookup_min=1, lookup_max=3), tmp_path, plain)


@pytest.mark.long
async def test_a_model_drafts_for_another(tiny_model: ServedModel, vllm: VllmEngine, tmp_path: Path) -> None:
    plain = await answers(vllm.url, "tiny")
    accepted = await drafted(tiny_model, Draft("model", tiny_model.path, 3), tmp_path, plain)
    assert accepted > 0.9  # it is the same model
