"""Two real vLLM servers, one reading prompts for the other: are answers those of one server alone, and what goes between them?

For tests and benchmarks: `async with two_servers(...) as rig: proof = await rig.prove(lengths, in_flight)`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from batchsched.executors.admission import Admission
from batchsched.executors.demand import demand_of
from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.outputs import Reply
from batchsched.executors.probes import page_of
from batchsched.executors.split import Split
from batchsched.executors.transfer import Role
from batchsched.fleet import Pool, ServedModel
from batchsched.kv_link import kv_bytes_in
from batchsched.lines import COMPLETIONS
from batchsched.settings import Worker

ANSWER_TOKENS = 16
BLOCK = 128
"""Tokens of a block of vLLM's on CPUs: only whole ones are sent."""
_FIRST_ID, _LAST_ID = 20, 250
"""Of the tiny model's bytes: no special ones, which would end an answer."""


class Proof(NamedTuple):
    """Of some prompts at so many in flight. `bytes_per_token`: sent a token of the blocks sent."""

    prompts: int
    in_flight: int
    equal: int
    external_tokens: float
    prompt_tokens: int
    bytes_per_token: float
    seconds_split: float
    seconds_alone: float


class Rig:
    """The two servers and the way between them."""

    def __init__(self, reader: VllmEngine, ours: VllmEngine, session: aiohttp.ClientSession, model: ServedModel) -> None:
        self.reader, self.ours, self.session, self.model = reader, ours, session, model
        self.split = self.afresh()
        self._salts = 0

    def afresh(self) -> Split:
        """Another way between them, of which nothing is known yet."""
        self.known = Known(self.reader)
        self.split = Split(self.known, Admission(256), Admission(256))
        return self.split

    async def measured(self) -> None:
        """Tell it what both can hold."""
        self.split.found((await page_of(self.session, self.reader.url)).capacity(None))
        self.split.resize((await page_of(self.session, self.ours.url)).capacity(self.ours.context))

    async def post(self, url: str, data: bytes) -> Reply:
        """As a worker asks."""
        try:
            async with self.session.post(url, data=data, headers={"content-type": "application/json"}) as answer:
                return Reply(answer.status, await answer.read(), "")
        except aiohttp.ClientError as problem:
            return Reply(0, str(problem).encode(), "")

    async def ask(self, body: bytes) -> Reply:
        """By way of both."""
        demand, _ = demand_of(body, COMPLETIONS)
        return await self.split.ask(demand, COMPLETIONS, body, self.ours.url, read=self.post, answer=self.post)

    async def prove(self, lengths: Sequence[int], in_flight: int, seed: int = 0) -> Proof:
        """Greedy answers to prompts of these lengths, by way of both and then by ours alone, which has none of them cached."""
        rng = random.Random(seed)
        prompts = [[rng.randint(_FIRST_ID, _LAST_ID) for _ in range(length)] for length in lengths]
        before = await self.counted()
        split, took_split = await self._all(prompts, in_flight, alone=False)
        after = await self.counted()
        alone, took_alone = await self._all(prompts, in_flight, alone=True)
        blocks = sum(-(-length // BLOCK) * BLOCK for length in lengths)
        equal = sum(one is not None and one == other for one, other in zip(split, alone, strict=True))
        gains = [new - old for new, old in zip(after, before, strict=True)]
        return Proof(len(prompts), in_flight, equal, gains[0], sum(lengths), gains[1] / blocks, took_split, took_alone)

    async def counted(self) -> tuple[float, float]:
        """Prompt tokens that ours took from elsewhere, and bytes that came, since its start."""
        sent_bytes, tokens = (await page_of(self.session, self.ours.url)).handed()
        return tokens, sent_bytes

    async def _all(self, prompts: list[list[int]], in_flight: int, *, alone: bool) -> tuple[list[list[int] | None], float]:
        self._salts += 1
        salt, room = f"{id(self)} {self._salts}", asyncio.Semaphore(in_flight)
        loop = asyncio.get_running_loop()

        async def one(prompt: list[int]) -> list[int] | None:
            wanted = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "return_token_ids": True}
            body = json.dumps({"model": "tiny", "prompt": prompt, "cache_salt": salt, **wanted}).encode()
            async with room:
                reply = await (self.post(self.ours.url + COMPLETIONS, body) if alone else self.ask(body))
            if reply.status != 200:
                return None
            choice = json.loads(reply.body)["choices"][0]
            return list(choice["token_ids"])

        began = loop.time()
        return await asyncio.gather(*(one(prompt) for prompt in prompts)), loop.time() - began


class Known:
    """The reading server, as long as it runs."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine, self.served = engine, "tiny"
        self.said, self.anew = list[str](), False

    @property
    def url(self) -> str:
        """Of its engine, however often that is started."""
        return self._engine.url if self._engine.served else ""

    def failed(self, why: str, *, anew: bool = False) -> None:
        """Kept to be looked at."""
        self.said.append(why)
        self.anew = self.anew or anew


@asynccontextmanager
async def two_servers(home: EngineHome, model: ServedModel, state: Path, flags: Sequence[str] = ()) -> AsyncGenerator[Rig]:
    """Both started on this machine."""
    pool = Pool(engine_args=list(flags))
    sides = [
        VllmEngine(home, pool, Worker(state_dir=str(state / role.side), startup_timeout_s=900), role)
        for role in (Role("kv_producer"), Role("kv_consumer"))
    ]
    timeout = aiohttp.ClientTimeout(total=900)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3), timeout=timeout) as session:
        try:
            async with asyncio.TaskGroup() as starts:
                for engine in sides:
                    starts.create_task(engine.start(model, "tiny"))
            rig = Rig(sides[0], sides[1], session, model)
            await rig.measured()
            yield rig
        finally:
            for engine in sides:
                await engine.stop()


def computed_bytes(model: ServedModel) -> float:
    """A token's keys and values by the model's shape."""
    found = kv_bytes_in(model.path)
    assert found is not None
    return found
