"""Lines that likely ask for more than a model's context holds: an engine would cut their answers and say nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchsched.cli.infile import blocks
from batchsched.executors.demand import demand_of
from batchsched.lines import LineError, iter_lines, parse
from batchsched.profiles.answers import BYTES_PER_TOKEN


class Tight(msgspec.Struct, frozen=True):
    """How many lines there are, and the first one's number."""

    lines: int = 0
    first: int | None = None

    def said(self, model: str, context: int) -> str:
        """For people."""
        return (
            f"{self.lines} line(s), the first is line {self.first}, likely ask for more than the {context} tokens that prompt "
            f"and answer together have with '{model}' (prompts by their bytes, {BYTES_PER_TOKEN:g} a token); "
            "those answers would be cut."
        )


def tight(path: Path, endpoint: str, context: int) -> Tight:
    """Of a file whose lines are sound. `context`: tokens of prompt and answer together."""
    count, first = 0, None
    for line in iter_lines(blocks(path)):
        request = parse(line.data, line.number)
        if isinstance(request, LineError):
            continue
        demand, _ = demand_of(request.body, endpoint)
        prompt_tokens = demand.prompt_bytes / demand.prompts / BYTES_PER_TOKEN
        if demand.answer_tokens and prompt_tokens + demand.answer_tokens / demand.requests > context:
            count, first = count + 1, first or line.number
    return Tight(count, first)
