"""What a request asks of an engine: how much there is to read, how much it may write, and how its prompt begins."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchsched.lines import COMPLETIONS, EMBEDDINGS
from batchsched.lines.limits import answers_of, limit_of

_NOTHING = msgspec.Raw(b"")
_MOST_ANSWERS = 2**20
"""More are counted as so many: an engine refuses them, and sums of them must fit into what is kept of a worker."""
_SEVERAL = frozenset({COMPLETIONS, EMBEDDINGS})
"""Endpoints that take several prompts at once."""


class Demand(NamedTuple):
    """`prompt_bytes`: of the prompt as JSON, tools included; `answer_tokens`: the most that all its answers together may have,
    None where it sets no limit; `answers`: how many it asks for each of its `prompts`."""

    prompt_bytes: int
    answer_tokens: int | None = None
    answers: int = 1
    prompts: int = 1

    @property
    def requests(self) -> int:
        """As many it is to the engine."""
        return self.answers * self.prompts


class _Body(msgspec.Struct, gc=False):
    """The fields of any endpoint that say how much work a request is. The raw ones come in the order in which they are read."""

    tools: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    max_completion_tokens: int | None = None
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_bodies = msgspec.json.Decoder(_Body)
_lists = msgspec.json.Decoder(list[msgspec.Raw])


def demand_of(body: bytes | msgspec.Raw, endpoint: str) -> tuple[Demand, bytes]:
    """The demand of a request's body, and its prompt as the bytes that were sent: equal beginnings are equal prompts.

    A body with fields of other types than these is an engine's to refuse; here it counts by its length.
    """
    try:
        read = _bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Demand(len(bytes(body))), bytes(body)
    opening = b"".join((read.tools, read.instructions, read.messages, read.prompt, read.input))
    (_, limit), answers, prompts = limit_of(read, endpoint), min(answers_of(read, endpoint), _MOST_ANSWERS), 1
    if endpoint in _SEVERAL:
        prompts = _prompts(bytes(read.prompt) or bytes(read.input))
    return Demand(len(opening), None if limit is None else limit * answers * prompts, answers, prompts), opening


def _prompts(said: bytes) -> int:
    """How many there are. One may be a list too, of tokens."""
    if not said.startswith(b"[") or said[1:32].lstrip()[:1].isdigit():
        return 1
    return len(_lists.decode(said)) or 1
