"""Put one probe's requests to an engine: as many at once as it takes, or as they arrive at a rate.

Prompts are random tokens of the asked number, so that no tokenizer is needed and no prefix is in the engine's cache; answers have
their full length (`ignore_eos`). Arrivals are a Poisson process and do not wait for answers, as users do not.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import aiohttp

from batchsched.engines import Build
from batchsched.executors.demand import demand_of
from batchsched.executors.outputs import Reply
from batchsched.executors.probes import Drafts, page_of
from batchsched.executors.split import Split
from batchsched.lines import COMPLETIONS
from batchsched.wire import Probe

_JSON = {"content-type": "application/json"}
_TOKENS = (10, 250)
"""Ids that every vocabulary has, as plain words or bytes."""
_MEANS = {"ttft_s": "ttft", "tpot_s": "tpot"}
_NAMES = Build().facts("metric")


class Answer(NamedTuple):
    """One request that was answered in full; latencies only where the answer was streamed."""

    input_tokens: int
    output_tokens: int
    ttft_s: float | None = None
    tpot_s: float | None = None


class Ran(NamedTuple):
    """A probe's requests, all told."""

    answers: list[Answer]
    unanswered: int
    seconds: float
    problem: str = ""
    """The first thing that went wrong."""


class Asker:
    """Asks one engine for one model. `timeout_s`: of one request; `metrics`: how the engine names its own; `split`: by which
    another one reads its prompts."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        model: str,
        timeout_s: float,
        metrics: Mapping[str, str] = _NAMES,
        split: Split | None = None,
    ) -> None:
        self._metrics, self._split = metrics, split
        self._session, self._url, self._model = session, url, model
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def at_once(self, probe: Probe, count: int, in_flight: int, rng: random.Random) -> Ran:
        """`count` requests, `in_flight` of them at any time."""
        left = iter(range(count))

        async def line(found: list[Answer | str]) -> None:
            for _ in left:
                await self._one(probe, rng, found, stream=False)

        return await _timed(lambda found: asyncio.gather(*(line(found) for _ in range(min(in_flight, count)))))

    async def at_rate(self, probe: Probe, seconds: float, least: int, rng: random.Random) -> Ran:
        """Arrivals at `probe.qps` for so long, or until `least` have come."""
        assert probe.qps

        async def all_of_them(found: list[Answer | str]) -> None:
            began, at_s, asked = time.monotonic(), 0.0, 0
            async with asyncio.TaskGroup() as tasks:
                while at_s < seconds or asked < least:
                    await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
                    tasks.create_task(self._one(probe, rng, found, stream=True))
                    asked += 1
                    at_s += rng.expovariate(probe.qps or 1.0)

        return await _timed(all_of_them)

    async def means(self) -> dict[str, tuple[float, float]]:
        """Sum and count of what the engine itself measured of its requests since it started; empty where it does not say."""
        try:
            async with self._session.get(f"{self._url}/metrics", timeout=self._timeout) as answer:
                lines = [line.rsplit(maxsplit=1) for line in (await answer.text()).splitlines() if ":" in line and line[0] != "#"]
                known = {line[0].partition("{")[0]: float(line[1]) for line in lines}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, IndexError):
            return {}
        return {
            name: (known[f"{metric}_sum"], known[f"{metric}_count"])
            for name, what in _MEANS.items()
            if (metric := self._metrics.get(what)) and f"{metric}_sum" in known and f"{metric}_count" in known
        }

    async def drafts(self) -> Drafts | None:
        """What it counted of drafts since it started; None where it makes none."""
        return (await page_of(self._session, self._url)).drafts(self._metrics)

    async def _one(self, probe: Probe, rng: random.Random, found: list[Answer | str], *, stream: bool) -> None:
        found.append(await self._ask(probe, _prompt(probe, rng), stream=stream))

    async def _ask(self, probe: Probe, prompt: list[int], *, stream: bool) -> Answer | str:
        """The answer, or what went wrong."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": probe.output_tokens, "ignore_eos": True, "temperature": 0}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        began, data = time.monotonic(), json.dumps(body).encode()
        told = list[Answer]()

        async def answered(url: str, data: bytes) -> Reply:
            async with self._session.post(url, data=data, headers=_JSON, timeout=self._timeout) as answer:
                if answer.status != 200:
                    return Reply(answer.status, await answer.read(), "")
                told.append(await _streamed(answer, began) if stream else _counted((await answer.json())["usage"]))
                return Reply(200, b"", "")

        try:
            if self._split is None:
                reply = await answered(self._url + COMPLETIONS, data)
            else:
                demand, _ = demand_of(data, COMPLETIONS)
                reply = await self._split.ask(demand, COMPLETIONS, data, self._url, read=self._read, answer=answered)
            return told[-1] if told else f"the engine answered {reply.status}: {reply.body[:300].decode('utf-8', 'replace')}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as problem:
            return f"{type(problem).__name__}: {problem}"

    async def _read(self, url: str, data: bytes) -> Reply:
        try:
            async with self._session.post(url, data=data, headers=_JSON, timeout=self._timeout) as answer:
                return Reply(answer.status, await answer.read(), "")
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            return Reply(0, (str(problem) or type(problem).__name__).encode(), "")


def _prompt(probe: Probe, rng: random.Random) -> list[int]:
    return [rng.randint(*_TOKENS) for _ in range(probe.input_tokens)]


def _counted(usage: dict[str, Any]) -> Answer:
    return Answer(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


async def _streamed(answer: aiohttp.ClientResponse, began: float) -> Answer:
    """Only the last event is parsed: the client must not be what is measured."""
    first_at = last_at = 0.0
    last = b""
    async for line in answer.content:
        if line.startswith(b"data: {"):
            if not first_at:
                first_at = time.monotonic()
            elif b'"choices":[]' not in line:
                last_at = time.monotonic()
            last = line
    counted = _counted(json.loads(last.removeprefix(b"data: "))["usage"])
    further = counted.output_tokens - 1
    tpot_s = (last_at - first_at) / further if further > 0 and last_at else 0.0
    return counted._replace(ttft_s=first_at - began, tpot_s=tpot_s)


async def _timed(act: Callable[[list[Answer | str]], Awaitable[object]]) -> Ran:
    found: list[Answer | str] = []
    began = time.monotonic()
    await act(found)
    seconds = time.monotonic() - began
    problems = [each for each in found if isinstance(each, str)]
    return Ran([each for each in found if isinstance(each, Answer)], len(problems), seconds, next(iter(problems), ""))
