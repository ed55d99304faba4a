"""Where two greedy answers part: is it only that two tokens tie there?

What an engine computes beside a request shapes its sums, by as much as its numbers are rounded. So where the two best tokens are
as good as equal, one engine answers one prompt now with the one, now with the other, and another engine's answer that parts from
its own there, by one of the two, is no other answer; what follows is not compared, for another token stands before it. How far
apart the two are is asked of the engine alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp

from benchmarks.modes_load import Body, Load, Sent, posted

TIE_NATS = 0.05
"""Tokens whose log probabilities lie no farther apart tie: the tiny models compute in bfloat16, whose numbers from 4 to 8, as
large as their logits, lie 0.03 apart, and both logits are rounded."""
_BEST = 5
"""Tokens whose log probabilities are asked for."""


class Parting(NamedTuple):
    """Of one request: after the tokens `before`, which both answers have, one goes on with `mine` and the other with `theirs`."""

    body: Body
    in_flight: int
    before: list[int]
    mine: int
    theirs: int

    def __str__(self) -> str:
        asked = f"{len(self.body['prompt'])} tokens, {self.in_flight} in flight"
        return f"the answer to a prompt of {asked}, differs after {len(self.before)} tokens"


Tie = Callable[[Parting], Awaitable[float]]
"""How far apart the two tokens are, in nats."""


def partings(load: Load, known: Sent, sent: Sent) -> list[Parting]:
    """Of requests that got an answer both times, and not the same one."""
    found: list[Parting] = []
    for body, mine, theirs in zip(load.bodies, known.answers, sent.answers, strict=True):
        if mine is None or theirs is None or mine == theirs:
            continue
        at = next((at for at, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other), None)
        if at is None:  # one ends where the other goes on, though all are asked for as many tokens
            found.append(Parting(body, load.in_flight, mine, -1, -1))
        else:
            found.append(Parting(body, load.in_flight, mine[:at], mine[at], theirs[at]))
    return found


def tie_at(url: str) -> Tie:
    """Asked of the engine there."""

    async def gap_nats(parting: Parting) -> float:
        """Infinite where one of the two is none of its best."""
        asked = {"prompt": [*parting.body["prompt"], *parting.before], "max_tokens": 1, "logprobs": _BEST}
        body = {**parting.body, **asked, "return_tokens_as_token_ids": True}
        async with aiohttp.ClientSession() as session:
            said = await posted(session, url, json.dumps(body).encode())
        best = said["choices"][0]["logprobs"]["top_logprobs"][0]
        mine, theirs = (best.get(f"token_id:{token}", -math.inf) for token in (parting.mine, parting.theirs))
        return abs(mine - theirs) if math.isfinite(mine) and math.isfinite(theirs) else math.inf

    return gap_nats


async def other_answers(found: list[Parting], tie: Tie, name: str) -> tuple[int, int]:
    """How many are other answers, and how many part at a tie; each is told."""
    ties = 0
    for each in found:
        gap_nats = await tie(each)
        ties += gap_nats <= TIE_NATS
        what = "where two tokens tie: " if gap_nats <= TIE_NATS else ""
        print(f"{name}: {each}, {what}{gap_nats:.3f} nats apart", flush=True)
    return len(found) - ties, ties
