"""How long answers will be: from a tenant's own, from everybody's, from what is usual; and how sure that is."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.profiles.answers import Answers, usual
from batchsched.profiles.lengths import estimate
from batchsched.units import class_end, length_class

CHAT = "/v1/chat/completions"


def row(lengths: list[int], tenant: str = "t", batch: str = "b", model: str = "m", endpoint: str = CHAT) -> dict[str, Any]:
    """As the ledger tells it."""
    counts = {str(number): count for number, count in Counter(length_class(n) for n in lengths).items()}
    return {"tenant": tenant, "model": model, "endpoint": endpoint, "batch_id": batch, "lengths": counts}


@given(st.integers(1, 10**7))
def test_an_answer_lies_in_its_class(tokens: int) -> None:
    number = length_class(tokens)
    assert class_end(number - 1) <= tokens * (1 + 1e-9)
    assert tokens < class_end(number) * (1 + 1e-9)


def test_usual_answers_are_a_distribution_of_the_right_order() -> None:
    assert math.fsum(usual().values()) == pytest.approx(1.0)
    blind = Answers().expected("t", "m", CHAT)
    assert 100 < blind.mean() < 350
    assert blind.quantile(0.1) < blind.quantile(0.5) < blind.quantile(0.9) < 1000
    assert blind.mean(limit=16) <= 16
    assert blind.answers == 0


def test_own_answers_take_over() -> None:
    draw = random.Random(1)
    lengths = [round(draw.lognormvariate(3, 0.5)) for _ in range(3000)]
    found = Answers([row(lengths)]).expected("t", "m", CHAT)
    ordered = sorted(lengths)
    assert found.mean() == pytest.approx(sum(lengths) / 3000, rel=0.1)
    assert found.quantile(0.9) == pytest.approx(ordered[2700], rel=0.1)
    assert found.quantile(0.5) == pytest.approx(ordered[1500], rel=0.1)


def test_a_tenant_without_answers_goes_by_the_others_of_the_model_at_the_endpoint() -> None:
    known = Answers([row([1000] * 500, tenant="other")])
    assert known.expected("t", "m", CHAT).mean() == pytest.approx(1000, rel=0.1)
    assert known.expected("t", "m", "/v1/completions").mean() == pytest.approx(Answers().expected("t", "m", CHAT).mean())
    assert known.expected("t", "another", CHAT).mean() == pytest.approx(Answers().expected("t", "m", CHAT).mean())
    own = Answers([row([1000] * 500, tenant="other"), row([10] * 500)])
    assert own.expected("t", "m", CHAT).quantile(0.9) < 11


def test_newer_answers_count_more() -> None:
    newest_first = [row([10] * 10_000, batch="new"), row([1000] * 10_000, batch="old")]
    assert Answers(newest_first).expected("t", "m", CHAT).quantile(0.5) < 12


def test_a_batch_spreads_as_batches_did() -> None:
    """Batches that differ make the next one's mean unsure, however many answers they had; alike ones make it sure."""
    alike = Answers([row([100] * 50 + [200] * 50, batch=f"b{i}") for i in range(20)]).expected("t", "m", CHAT)
    unlike = Answers([row([50 if i % 2 else 300] * 100, batch=f"b{i}") for i in range(20)]).expected("t", "m", CHAT)
    assert alike.sigma(1000) < 0.25 < 0.7 < unlike.sigma(1000)
    assert alike.sigma(1) > 2 * alike.sigma(1000)


def test_bytes_a_token_are_learnt_from_prompts() -> None:
    """A tenant's own first, then everybody's of the model at the endpoint, then four; requests that failed teach nothing."""

    def prompts(requests: int, ratio: float, **more: Any) -> dict[str, Any]:
        told = row([10] * requests, **more)
        return {**told, "requests": requests + 7, "input_tokens": round(requests * 400 / ratio), "line_bytes": 550}

    assert Answers().expected("t", "m", CHAT).bytes_per_token == 4
    known = Answers([prompts(2000, 1.5), prompts(2000, 3.0, tenant="other"), prompts(10_000, 8.0, endpoint="/v1/completions")])
    assert known.expected("t", "m", CHAT).bytes_per_token == pytest.approx(1.5, rel=0.02)
    assert known.expected("new", "m", CHAT).bytes_per_token == pytest.approx(2.0, rel=0.1)  # 8 bytes hold 16/3 + 8/3 tokens
    assert known.expected("new", "another", CHAT).bytes_per_token == 4
    few = Answers([prompts(20, 2.0)]).expected("t", "m", CHAT)
    assert 2.0 < few.bytes_per_token < 4
    assert estimate(5500, 10, None, known.expected("t", "m", CHAT)).input_tokens == pytest.approx(4000 / 1.5, rel=0.02)
    newest_first = Answers([prompts(20_000, 2.0), prompts(20_000, 6.0)])
    assert newest_first.expected("t", "m", CHAT).bytes_per_token < 2.2


def test_embeddings_teach_bytes_a_token_though_they_have_no_answers() -> None:
    told = {**row([], endpoint="/v1/embeddings"), "lengths": None, "requests": 1000, "input_tokens": 200_000, "line_bytes": 550}
    known = Answers([told])
    assert known.expected("t", "m", "/v1/embeddings").bytes_per_token == pytest.approx(2, rel=0.1)


def test_embeddings_have_no_answers() -> None:
    found = estimate(10_000, 10, None, Answers().expected("t", "m", "/v1/embeddings"))
    assert found.output_tokens == 0
    assert found.input_tokens > 0


def test_limits_hint_until_answers_speak() -> None:
    blind, huge = estimate(9000, 10, 10 * 200), estimate(9000, 10, 10 * 8000)
    assert 500 < blind.output_tokens < 2000
    assert huge.sigma > blind.sigma
    assert huge.output_tokens < 10 * 8000 * 0.6
    known = Answers([row([50] * 2000, batch=f"b{i}") for i in range(9)]).expected("t", "m", CHAT)
    assert estimate(9000, 10, 10 * 8000, known).output_tokens == pytest.approx(500, rel=0.15)
    assert estimate(9000, 10, 10 * 8000, known).sigma < huge.sigma
    assert estimate(9000, 10, 10 * 20, known).output_tokens <= 200


def test_ninety_of_a_hundred_answers_stay_within_the_quantile() -> None:
    """Foretold before each batch from those before it, over a stream with short and long answers."""
    draw = random.Random(8)
    within, rows = 0, list[dict[str, Any]]()
    for n in range(60):
        lengths = [max(1, round(draw.lognormvariate(2.5 if draw.random() < 0.6 else 5.5, 0.6))) for _ in range(50)]
        limit = Answers(rows).expected("t", "m", CHAT).quantile(0.9)
        within += sum(tokens <= limit for tokens in lengths)
        rows.insert(0, row(lengths, batch=f"b{n}"))
    assert 0.88 <= within / 3000 <= 0.92
