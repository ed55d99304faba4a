"""The requests of the benchmark of serving modes, and those who send them: prompts of exact lengths in tokens, greedy answers."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import aiohttp

FIRST_TOKEN, LAST_TOKEN = 6, 261
"""Those of single bytes in the tiny model's vocabulary: every row of such is a prompt."""
_ANSWER_S = 600.0
Body = dict[str, Any]
Send = Callable[[aiohttp.ClientSession, Body], Awaitable[list[int]]]


class Load(NamedTuple):
    """Requests that are sent together, so many in flight."""

    bodies: list[Body]
    in_flight: int

    @property
    def tokens(self) -> int:
        """That its answers have."""
        return sum(int(body["max_tokens"]) for body in self.bodies)


class Sent(NamedTuple):
    """What came of a load: of each request its answer's token ids, None where it got none; and the seconds of all."""

    answers: list[list[int] | None]
    seconds: float

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return sum(answer is None for answer in self.answers)


def of_lengths(model: str, lengths: Sequence[int], answer_tokens: int, in_flight: int, seed: int = 0) -> Load:
    """Prompts of these lengths, which share nothing."""
    draw = random.Random(seed)
    bodies = [
        {
            "model": model,
            "prompt": [draw.randint(FIRST_TOKEN, LAST_TOKEN) for _ in range(length)],
            "max_tokens": answer_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        for length in lengths
    ]
    return Load(bodies, in_flight)


def spread(shortest: int, longest: int, count: int) -> list[int]:
    """So many lengths between the two, each longer than the one before by the same factor."""
    return [round(shortest * math.pow(longest / shortest, index / (count - 1))) for index in range(count)]


def to(url: str) -> Send:
    """One engine alone."""

    async def send(session: aiohttp.ClientSession, body: Body) -> list[int]:
        return answer_of(await posted(session, url, body))

    return send


async def posted(session: aiohttp.ClientSession, url: str, body: Body | bytes) -> Body:
    """The answer of an engine. Raises aiohttp.ClientError or TimeoutError where it is not 200."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=data, headers=headers) as answer:
        answer.raise_for_status()
        said: Body = await answer.json()
        return said


def answer_of(said: Body) -> list[int]:
    """The token ids of an engine's answer."""
    return [int(token) for token in said["choices"][0]["token_ids"]]


async def run(load: Load, send: Send) -> Sent:
    """Send it all."""
    turns = asyncio.Semaphore(load.in_flight)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def one(body: Body) -> list[int] | None:
            async with turns:
                try:
                    return await send(session, body)
                except (aiohttp.ClientError, TimeoutError, OSError, KeyError):
                    return None

        began = time.monotonic()
        answers = await asyncio.gather(*(one(body) for body in load.bodies))
        return Sent(list(answers), time.monotonic() - began)
