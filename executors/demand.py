"""What a request asks of an engine: how much there is to read, how much it may write, and how its prompt begins."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchsched.lines import COMPLETIONS, EMBEDDINGS

COMPLETION_TOKENS = 16
"""What /v1/completions writes at most where a request sets no limit."""
_MOST = 2**31
_NOTHING = msgspec.Raw(b"")


class Demand(NamedTuple):
    """`prompt_bytes`: of the prompt as JSON, tools included; `answer_tokens`: the most that all its answers together may have,
    None where it sets no limit; `answers`: how many it asks for."""

    prompt_bytes: int
    answer_tokens: int | None = None
    answers: int = 1


class _Body(msgspec.Struct, gc=False):
    """The fields of any endpoint that say how much work a request is. The raw ones come in the order in which they are read."""

    tools: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of one answer."""
        for said in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if said is not None:
                return min(max(said, 0), _MOST)
        return None


_bodies = msgspec.json.Decoder(_Body)


def demand_of(body: bytes | msgspec.Raw, endpoint: str) -> tuple[Demand, bytes]:
    """The demand of a request's body, and its prompt as the bytes that were sent: equal beginnings are equal prompts.

    A body with fields of other types than these is an engine's to refuse; here it counts by its length.
    """
    try:
        read = _bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Demand(len(bytes(body))), bytes(body)
    opening = b"".join((read.tools, read.instructions, read.messages, read.prompt, read.input))
    if endpoint == EMBEDDINGS:
        return Demand(len(opening), 0), opening
    answers = min(max(read.n or 1, read.best_of or 1, 1), _MOST)
    limit = read.limit
    if limit is None and endpoint == COMPLETIONS:
        limit = COMPLETION_TOKENS
    return Demand(len(opening), None if limit is None else limit * answers, answers), opening
