"""The benchmark's mode of two engines for a request: one reads the prompt, the other answers from its keys and values."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec

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

    def figures(self) -> dict[str, float]:
        """Bytes a token of the blocks that were sent, and as the model's shape has it."""
        sent = self.answers.counter("vllm:nixl_bytes_transferred_sum")
        return {"bytes_measured": sent / max(1, self.block_tokens), "bytes_computed": kv_bytes_in(str(self._model)) or 0.0}


def missing(home: EngineHome) -> str:
    """What this engine lacks for it; empty where it can."""
    if subprocess.run([home.python, "-c", "import nixl"], cwd="/", capture_output=True, check=False).returncode:
        return "its environment has no nixl, by which keys and values travel"
    return ""


@contextmanager
def split_engines(home: EngineHome, folder: Path, model: Path, name: str, flags: Sequence[str]) -> Generator[Both]:
    """Both, until this is left."""

    def started(role: str) -> tuple[list[str], dict[str, str]]:
        config = {
            "kv_connector": "NixlConnector",
            "kv_role": role,
            "kv_buffer_device": home.device if home.device == "cpu" else "cuda",
            "kv_load_failure_policy": "recompute",
        }
        side = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())}
        return [*flags, "--kv-transfer-config", json.dumps(config)], {"UCX_TLS": "tcp,self,sm", "UCX_NET_DEVICES": "lo", **side}

    reading, answering = started("kv_producer"), started("kv_consumer")
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
