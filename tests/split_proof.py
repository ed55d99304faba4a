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
from benchmarks.modes_load import Body, Load, Sent, answer_of
from benchmarks.modes_ties import other_answers, partings, tie_at

ANSWER_TOKENS = 16
BLOCK = 128
"""Tokens of a block of vLLM's on CPUs: only whole ones are sent."""
_FIRST_ID, _LAST_ID = 20, 250
"""Of the tiny model's bytes: no special ones, which would end an answer."""


class Proof(NamedTuple):
    """Of some prompts at so many in flight. `equal`: answers; `tied` of them part where two tokens tie for the engine alone.
    `bytes_per_token`: sent a token of the blocks sent."""

    prompts: int
    in_flight: int
    equal: int
    tied: int
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
        load = Load([asked([rng.randint(_FIRST_ID, _LAST_ID) for _ in range(length)]) for length in lengths], in_flight)
        before = await self.counted()
        split = await self._all(load, alone=False)
        after = await self.counted()
        alone = await self._all(load, alone=True)
        blocks = sum(-(-length // BLOCK) * BLOCK for length in lengths)
        other, tied = await other_answers(partings(load, alone, split), tie_at(self.ours.url), "by way of both")
        equal = len(lengths) - sum(None in pair for pair in zip(alone.answers, split.answers, strict=True)) - other
        gains = [new - old for new, old in zip(after, before, strict=True)]
        per_token = gains[1] / blocks
        return Proof(len(lengths), in_flight, equal, tied, gains[0], sum(lengths), per_token, split.seconds, alone.seconds)

    async def counted(self) -> tuple[float, float]:
        """Prompt tokens that ours took from elsewhere, and bytes that came, since its start."""
        sent_bytes, tokens = (await page_of(self.session, self.ours.url)).handed()
        return tokens, sent_bytes

    async def _all(self, load: Load, *, alone: bool) -> Sent:
        self._salts += 1
        salt, room = f"{id(self)} {self._salts}", asyncio.Semaphore(load.in_flight)
        loop = asyncio.get_running_loop()

        async def one(body: Body) -> list[int] | None:
            data = json.dumps({**body, "cache_salt": salt}).encode()
            async with room:
                reply = await (self.post(self.ours.url + COMPLETIONS, data) if alone else self.ask(data))
            return answer_of(json.loads(reply.body)) if reply.status == 200 else None

        began = loop.time()
        answers = await asyncio.gather(*(one(body) for body in load.bodies))
        return Sent(list(answers), loop.time() - began)


def asked(prompt: list[int]) -> Body:
    """A request for a greedy answer in token ids."""
    wanted = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "return_token_ids": True}
    return {"model": "tiny", "prompt": prompt, **wanted}


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
