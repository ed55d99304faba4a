"""What answers mean: errors that come as a 200 among them, told by their code, else by what they call themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchsched.executors.answers import Judged, Verdict, as_object, judge

ANSWER = {"id": "x", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def judged(content: Any, status: int = 200) -> Judged:
    return judge(status, content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize("error", [None, "", {}, [], False])
def test_an_answer_whose_error_is_empty_is_an_answer(error: Any) -> None:
    """As /v1/responses says of each."""
    found = judged({**ANSWER, "error": error})
    assert (found.verdict, found.status, found.answer.tokens) == (Verdict.OK, 200, (3, 0, 2))


@pytest.mark.parametrize(
    ("error", "status", "verdict"),
    [
        ({"message": "m", "type": "BadRequestError", "param": None, "code": 400}, 400, Verdict.REFUSED),
        ({"message": "m", "code": "422"}, 422, Verdict.REFUSED),
        ({"message": "m", "type": "invalid_request_error", "code": None}, 400, Verdict.REFUSED),
        ({"message": "m", "type": "server_error", "code": "context_length_exceeded"}, 400, Verdict.REFUSED),
        ({"message": "m", "code": "invalid_prompt"}, 400, Verdict.REFUSED),
        ({"message": "m", "code": -32000, "type": "exceed_context_size_error"}, 400, Verdict.REFUSED),
        ({"message": "m", "code": 500}, 500, Verdict.TROUBLE),
        ({"message": "m", "code": "server_error"}, 500, Verdict.TROUBLE),
        ({"message": "m"}, 500, Verdict.TROUBLE),
        ({"message": "m", "code": {"odd": 1}}, 500, Verdict.TROUBLE),
        ("out of luck", 500, Verdict.TROUBLE),
        ({"message": "m", "code": 503}, 503, Verdict.OVERLOADED),
        ({"message": "m", "code": "rate_limit_exceeded"}, 429, Verdict.OVERLOADED),
        ({"message": "EngineCore encountered an issue.", "code": 500}, 500, Verdict.OVERLOADED),
        ({"message": "m", "code": 401}, 401, Verdict.WRONG_ENGINE),
        ({"message": "m", "type": "invalid_request_error", "code": "invalid_api_key"}, 401, Verdict.WRONG_ENGINE),
        ({"message": "m", "type": "invalid_request_error", "code": "model_not_found"}, 404, Verdict.WRONG_ENGINE),
        ({"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}, 404, Verdict.WRONG_ENGINE),
    ],
)
def test_an_error_that_comes_as_a_200_is_judged_by_its_kind(error: Any, status: int, verdict: Verdict) -> None:
    for content in ({"error": error}, {**ANSWER, "error": error}):
        found = judged(content)
        assert (found.status, found.verdict) == (status, verdict)
        assert found.answer.usage is None


def test_an_error_without_an_object_around_it_is_one_too() -> None:
    """As vLLM said it before 0.10.1."""
    flat = {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    assert judged(flat)[::2] == (Verdict.REFUSED, 400)
    assert json.loads(as_object(400, json.dumps(flat).encode()))["error"]["message"] == "too long"


@pytest.mark.parametrize("content", [b"<html>", b'{"id": "x", "usage"', b"null", b"[]", b"data: {}\n\n", b"\xff"])
def test_half_an_answer_is_trouble_and_no_success(content: bytes) -> None:
    assert judged(content)[::2] == (Verdict.TROUBLE, 502)


def test_no_answer_at_all_is_trouble() -> None:
    assert judge(0, b"nothing within 60 s") == Judged(Verdict.TROUBLE, judge(0, b"").answer, 0)
