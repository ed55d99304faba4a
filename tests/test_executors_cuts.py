"""Answers that the context cut, told from those that ended by themselves or where the request said so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchsched.executors.cuts import Cut, cut_of

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CONTEXT = 100


def cut(endpoint: str, body: dict[str, Any], answer: dict[str, Any], read: int, written: int) -> Cut | None:
    return cut_of(endpoint, json.dumps(body).encode(), json.dumps(answer).encode(), read, written, CONTEXT)


def ended(*reasons: str) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": {}} for reason in reasons]}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_had_less_room_than_it_asked_for_was_cut(field: str) -> None:
    assert cut(CHAT, {field: 60}, ended("length"), 50, 50) == Cut(CONTEXT, 60, 50, 50)


def test_an_answer_that_just_fits_was_not() -> None:
    assert cut(CHAT, {"max_tokens": 50}, ended("length"), 50, 50) is None
    assert cut(CHAT, {"max_tokens": 60}, ended("length"), 30, 60) is None
    assert cut(CHAT, {"max_tokens": 60}, ended("stop"), 50, 50) is None


def test_an_answer_without_a_limit_that_fills_the_context_is_told_of() -> None:
    assert cut(CHAT, {}, ended("length"), 50, 50) == Cut(CONTEXT, None, 50, 50)
    assert cut(CHAT, {"max_tokens": None}, ended("stop"), 50, 50) is None


def test_one_of_several_answers_may_be_the_one_that_was_cut() -> None:
    assert cut(CHAT, {"max_tokens": 60, "n": 2}, ended("stop", "length"), 50, 58) == Cut(CONTEXT, 60, 50, 58)
    assert cut(CHAT, {"max_tokens": 40, "n": 2}, ended("length", "length"), 50, 80) is None


def test_other_endpoints_have_other_words_and_limits() -> None:
    incomplete = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}
    assert cut(RESPONSES, {"max_output_tokens": 60}, incomplete, 50, 50) == Cut(CONTEXT, 60, 50, 50)
    assert cut(RESPONSES, {"max_output_tokens": 60}, {"status": "completed", "incomplete_details": None}, 50, 50) is None
    assert cut(COMPLETIONS, {"prompt": "a"}, ended("length"), 90, 10) == Cut(CONTEXT, 16, 90, 10)
    assert cut(COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 60}, ended("length", "length"), 60, 60) is None
    assert cut(COMPLETIONS, {"prompt": [1, 2], "max_tokens": 99}, ended("length"), 2, 98) == Cut(CONTEXT, 99, 2, 98)


def test_a_limit_is_the_one_that_the_endpoint_reads() -> None:
    """What the checks at submission, the room in the engine and this go by is one and the same."""
    assert cut(CHAT, {"max_tokens": 60, "max_output_tokens": 40}, ended("length"), 50, 50) == Cut(CONTEXT, 60, 50, 50)
    assert cut(CHAT, {"max_tokens": 60, "max_completion_tokens": 40}, ended("length"), 50, 50) is None
    assert cut(COMPLETIONS, {"prompt": "a", "max_completion_tokens": 40, "max_tokens": 60}, ended("length"), 50, 50) == Cut(
        CONTEXT, 60, 50, 50
    )


def test_what_cannot_be_read_is_not_called_cut() -> None:
    assert cut_of(CHAT, b"{", b'{"choices": [{"finish_reason": "length"}]}', 50, 50, CONTEXT) is None
    assert cut(CHAT, {"max_tokens": 60}, {"choices": "?"}, 50, 50) is None
    assert cut(CHAT, {"max_tokens": "60"}, ended("length"), 50, 50) == Cut(CONTEXT, None, 50, 50)
