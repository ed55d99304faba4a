"""Answers that vLLM cut silently: it lowers a `max_tokens` that does not fit behind the prompt, and answers 200."""

from __future__ import annotations

from typing import Any

import msgspec

from batchsched.lines.limits import limit_of


class Cut(msgspec.Struct, frozen=True):
    """An answer ended because prompt and answer filled the model's context of so many tokens. `asked`: the request's own limit;
    None where it set none. `prompt`, `written`: tokens read, and written over all of its answers."""

    context: int
    asked: int | None
    prompt: int
    written: int


class _Asked(msgspec.Struct):
    max_tokens: Any = msgspec.UNSET
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    prompt: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Why(msgspec.Struct):
    reason: str | None = None


class _Ended(msgspec.Struct):
    choices: list[_Choice] = []
    incomplete_details: _Why | None = None


_asked, _ended = msgspec.json.Decoder(_Asked), msgspec.json.Decoder(_Ended)


def cut_of(endpoint: str, request: bytes | msgspec.Raw, answer: bytes, read: int, written: int, context: int) -> Cut | None:
    """How an answer of so many tokens was cut; None where it ended by itself or at the limit that was asked for."""
    if read + written < context:
        return None
    try:
        asked, ended = _asked.decode(request), _ended.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if type(asked.prompt) is list and len(asked.prompt) > 1 and type(asked.prompt[0]) is not int:
        return None  # several prompts: what each of them took is not told
    reasons = {choice.finish_reason for choice in ended.choices}
    if "length" not in reasons and (ended.incomplete_details is None or ended.incomplete_details.reason != "max_output_tokens"):
        return None
    _, limit = limit_of(asked, endpoint)
    return None if limit is not None and read + limit <= context else Cut(context, limit, read, written)
