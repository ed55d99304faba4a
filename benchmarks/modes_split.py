"""The benchmark's mode of two engines for a request: one reads the prompt, the other answers from its keys and values."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec

from batchsched.errors import EngineFailed
from batchsched.executors import transfer
from batchsched.executors.demand import demand_of
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.handoff import first_body, kept_of, parts_of, second_body
from batchsched.kv_link import kv_bytes_in
from batchsched.lines import COMPLETIONS
from benchmarks.modes_engines import Engine, engine, free_port
from benchmarks.modes_load import Body, Send, answer_of, posted

BLOCK_TOKENS = 128
"""Of vLLM on CPUs; whole blocks travel."""


class Both:
    """The engine that reads, the one that answers, and what went between them."""

    def __init__(self, reads: Engine, answers: Engine, model: Path) -> None:
        self.reads, self.answers = reads, answers
        self._model = model
        self.block_tokens = 0

    def sent(self) -> float:
        """Bytes so far."""
        return self.answers.counter("vllm:nixl_bytes_transferred_sum")

    def figures(self) -> dict[str, float]:
        """Bytes a token of the blocks that were sent, and as the model's shape has it."""
        per_token = self.sent() / max(1, self.block_tokens)
        return {"bytes_measured": per_token, "bytes_computed": kv_bytes_in(str(self._model)) or 0.0}


def missing(home: EngineHome) -> str:
    """What this engine lacks for it; empty where it can."""
    try:
        transfer.flags(home, transfer.Role("kv_producer"))
    except EngineFailed as problem:
        return f"{problem.message} {problem.hint or ''}".strip()
    return ""


@contextmanager
def split_engines(home: EngineHome, folder: Path, model: Path, name: str, flags: Sequence[str]) -> Generator[Both]:
    """Both, until this is left."""

    def started(role: transfer.Role) -> tuple[list[str], dict[str, str]]:
        return [*flags, *transfer.flags(home, role)], transfer.environment(home, role, free_port(), list(os.environ))

    reading, answering = started(transfer.Role("kv_producer")), started(transfer.Role("kv_consumer"))
    with (
        engine(home, folder / "reads", name, model, *reading, wait=False) as reads,
        engine(home, folder / "answers", name, model, *answering, wait=False) as answers,
    ):
        reads.until_ready()
        answers.until_ready()
        yield Both(reads, answers, model)


def by_two(both: Both) -> Send:
    """The prompt to the one, then the answer of the other."""

    async def send(session: aiohttp.ClientSession, body: Body) -> list[int]:
        data = msgspec.json.encode(body)
        demand, _ = demand_of(data, COMPLETIONS)
        fields = parts_of(data, COMPLETIONS, demand)
        assert fields is not None
        said = await posted(session, both.reads.url, first_body(fields, body["model"]))
        kept = kept_of(msgspec.json.encode(said))
        if kept is None:
            raise KeyError("nothing was kept")
        both.block_tokens += -(-len(body["prompt"]) // BLOCK_TOKENS) * BLOCK_TOKENS
        return answer_of(await posted(session, both.answers.url, second_body(fields, kept)))

    return send
