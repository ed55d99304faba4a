"""Online users of the benchmark: when they come, and what each of them sees."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import aiohttp

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("BATCHSCHED_DATA", ROOT.parent / "shared" / "data"))
PROMPT_TOKENS, ANSWER_TOKENS = 40, 24
_TOKEN_IDS = 10, 250
"""Ordinary tokens of the tiny model's vocabulary."""
_TIMEOUT_S = 120.0


class Arrival(NamedTuple):
    """One request: when it comes, seconds from the beginning; tokens of its prompt and its answer."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int


class Felt(NamedTuple):
    """What its user saw: seconds to the first token, and for each further one; infinite where no whole answer came."""

    ttft_s: float
    tpot_s: float


def steady(count: int, per_s: float, seed: int) -> list[Arrival]:
    """Arrivals without memory."""
    rng = random.Random(seed)
    times = itertools.accumulate(rng.expovariate(per_s) for _ in range(count))
    return [Arrival(at_s, *_sizes(rng)) for at_s in times]


def bursty(count: int, per_s: float, seed: int) -> tuple[list[Arrival], str]:
    """Arrivals with the bursts of single requests to an assistant (Azure, 2023), their rate following a day of a production
    service in ten-minute steps (ServeGen, lows raised to a quarter), all compressed to `per_s`. And where they are from."""
    rng = random.Random(seed)
    try:
        times, rates, source = *_traced(count, rng), "Azure 2023 conversations x a day of ServeGen m-small"
    except (ImportError, OSError) as problem:
        times, rates = list(itertools.accumulate(_made_up(count, rng))), [1.0]
        source = f"made up, for the traces could not be read ({type(problem).__name__}; set BATCHSCHED_DATA)"
    done = [0.0, *itertools.accumulate(rate / sum(rates) for rate in rates)]
    arrivals: list[Arrival] = []
    for at in times:
        share = (at - times[0]) / (times[-1] - times[0])
        step = min(bisect_right(done, share), len(rates)) - 1
        at_step = step + (share - done[step]) / (done[step + 1] - done[step])
        arrivals.append(Arrival(at_step / len(rates) * count / per_s, *_sizes(rng)))
    return arrivals, source


def _traced(count: int, rng: random.Random) -> tuple[list[float], list[float]]:
    import pandas as pd

    requests = pd.read_parquet(DATA / "load_requests_azure2023_mooncake.parquet")
    times = sorted(float(at_s) for at_s in requests.loc[requests.service == "azure2023_conv", "t_s"])
    first = rng.randrange(len(times) - count)
    loads = pd.read_csv(DATA / "load_servegen_10min.csv.gz")
    rates = [float(rate) for rate in loads[loads.model == "m-small"].sort_values("t_s").req_per_s]
    start = rng.randrange(len(rates) - 144)
    day = rates[start : start + 144]
    return times[first : first + count], [max(rate, max(day) / 4) for rate in day]


def _made_up(count: int, rng: random.Random) -> list[float]:
    """Two states, the busier five times as busy, some dozens of requests each."""
    gaps: list[float] = []
    while len(gaps) < count:
        for rate in (0.5, 2.5):
            gaps += [rng.expovariate(rate) for _ in range(round(rng.expovariate(1 / 60)) + 1)]
    return gaps[:count]


def _sizes(rng: random.Random) -> tuple[int, int]:
    prompt, answer = (rng.lognormvariate(0, 0.4) * median for median in (PROMPT_TOKENS, ANSWER_TOKENS))
    return max(4, min(400, round(prompt))), max(8, min(120, round(answer)))


async def serve(url: str, arrivals: list[Arrival], seed: int) -> list[Felt]:
    """All of them, each at its time, as users on connections of their own; what each saw, in their order."""
    rng = random.Random(seed)
    bodies = [body(rng, each.prompt_tokens, each.answer_tokens) | {"stream": True} for each in arrivals]
    async with _users() as session:
        began = time.monotonic()

        async def one(number: int) -> Felt:
            await asyncio.sleep(max(0.0, began + arrivals[number].at_s - time.monotonic()))
            return await _ask(session, url, bodies[number], arrivals[number].answer_tokens)

        return list(await asyncio.gather(*(one(number) for number in range(len(arrivals)))))


def _users() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
    )


async def capacity_per_s(url: str, seed: int, count: int = 400, at_once: int = 48) -> float:
    """Online requests that the server answers in a second when it never lacks any: `count` of them, `at_once` in flight."""
    rng = random.Random(seed)
    todo = iter([(body(rng, *sizes) | {"stream": True}, sizes[1]) for sizes in (_sizes(rng) for _ in range(count))])
    began = time.monotonic()
    async with _users() as session:

        async def user() -> None:
            for asked, tokens in todo:
                await _ask(session, url, asked, tokens)

        await asyncio.gather(*(user() for _ in range(at_once)))
    return count / (time.monotonic() - began)


def body(rng: random.Random, prompt_tokens: int, answer_tokens: int) -> dict[str, object]:
    """A completion of exactly so many tokens, greedy, after a prompt that no cache knows."""
    prompt = [rng.randint(*_TOKEN_IDS) for _ in range(prompt_tokens)]
    return {"model": "tiny", "prompt": prompt, "max_tokens": answer_tokens, "ignore_eos": True, "temperature": 0}


async def _ask(session: aiohttp.ClientSession, url: str, asked: dict[str, object], tokens: int) -> Felt:
    began, first, last = time.monotonic(), 0.0, 0.0
    try:
        async with session.post(f"{url}/v1/completions", json=asked) as answer:
            if answer.status != 200:
                return Felt(float("inf"), float("inf"))
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    last = time.monotonic()
                    first = first or last
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Felt(float("inf"), float("inf"))
    return Felt(first - began, (last - first) / (tokens - 1)) if first else Felt(float("inf"), float("inf"))
