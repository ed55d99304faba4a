"""How much may be in flight at an engine: requests, and the tokens that its KV cache must hold for them.

The unit is one token of KV cache: of a request's prompt, or of what it is expected to write. Prompts are estimated by their bytes
and answers by their limits, both by what the answers so far turned out to be; what was in the prefix cache others hold already.
A request that alone exceeds the budget goes when nothing else is in flight, and while it waits for its turn no other passes it:
none is ever starved.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from batchsched.executors.demand import Demand

FIRST_BYTES_PER_TOKEN = 3.0
"""Cautious: English has about four; a prompt's JSON adds some."""
UNLIMITED_ANSWER_TOKENS = 1024
"""What an answer without a limit may have where the engine does not say how long its context is."""
_MEMORY = 0.995  # of each further answer: what was learned fades over some hundreds
_PRIOR_BYTES, _PRIOR_ANSWERS = 16_384, 32
_FULL = 0.8
_WIDER, _NARROWER = 1.2, 0.9
_WIDEST, _NARROWEST = 4.0, 0.5


class Capacity(NamedTuple):
    """What an engine can hold: tokens in its KV cache, in blocks of so many. `context`: tokens of its longest request; `ahead`:
    requests beyond those that it may have itself, which another engine prepares for it."""

    tokens: int | None = None
    block: int = 1
    context: int | None = None
    ahead: int = 0


class Load(NamedTuple):
    """How an engine fares: requests that wait in it, share of its KV cache in use, requests ever pushed out for want of it."""

    waiting: float
    usage: float
    preemptions: float


class Admission:
    """Counts what is in flight. `most_tokens` bounds the budget whatever the engine can hold."""

    def __init__(self, most_requests: int, most_tokens: int | None = None) -> None:
        self.requests = self.tokens = 0
        """In flight now."""
        self.short = False
        """Did the last request that was asked for lack tokens?"""
        self.most_requests, self._most_tokens = most_requests, most_tokens
        self.capacity = Capacity()
        """As it was last told."""
        self._tokens_when_short = 0
        self._stretch = 1.0
        self._preemptions: float | None = None
        self._bytes, self._read, self._cached = float(_PRIOR_BYTES), _PRIOR_BYTES / FIRST_BYTES_PER_TOKEN, 0.0
        self._allowed = self._written = 0.0

    @property
    def budget(self) -> float:
        """Tokens that may be in flight; infinite where neither the engine nor the pool says a bound."""
        held = math.inf if self.capacity.tokens is None else self.capacity.tokens * self._stretch
        return min(held, self._most_tokens or math.inf)

    @property
    def room(self) -> int:
        """Requests that find room at once, as far as can be told: what is in flight once tokens are short, else the bound."""
        return max(1, self.requests) if self.short else self._most

    @property
    def _most(self) -> int:
        return self.most_requests + self.capacity.ahead

    def resize(self, capacity: Capacity) -> None:
        """Another engine, or the same one begun anew."""
        self.capacity, self._stretch, self._preemptions = capacity, 1.0, None

    def crowded(self) -> int:
        """The engine ran out of memory with what is in flight: from now on half as many, at most; how many that is."""
        self.most_requests = max(1, min(self.most_requests, self.requests) // 2)
        return self.most_requests

    def cost(self, demand: Demand) -> int:
        """Tokens that a request is expected to hold at its end, in whole blocks; at most the whole budget."""
        prompt, allowed = self._expected(demand)
        tokens = prompt * (1 - self._cached / self._read) + allowed * (self._written / self._allowed if self._allowed else 1.0)
        block = self.capacity.block
        return int(min(block * math.ceil(max(tokens, 1.0) / block), self.budget))

    def prompt_tokens(self, demand: Demand) -> float:
        """Tokens that a request's prompt is expected to have."""
        return self._expected(demand)[0]

    def admits(self, demand: Demand) -> bool:
        """May it go now?"""
        if not self.requests:
            self.short = False
            return True
        self.short = self.tokens + self.cost(demand) > self.budget
        if self.short:
            self._tokens_when_short = self.tokens
        return self.requests < self._most and not self.short

    def enter(self, demand: Demand) -> int:
        """It goes; what to hand back to `leave`."""
        tokens = self.cost(demand)
        self.requests += 1
        self.tokens += tokens
        return tokens

    def leave(self, tokens: int) -> None:
        """It came back, or was let go."""
        self.requests -= 1
        self.tokens -= tokens
        if not self.requests:
            self.short = False

    def learn(self, demand: Demand, read: int, cached: int, written: int) -> None:
        """What a request turned out to be: tokens of its prompt, of those in the prefix cache, and of its answers."""
        if read > 0:
            self._bytes = _MEMORY * self._bytes + demand.prompt_bytes
            self._read = _MEMORY * self._read + read
            self._cached = _MEMORY * self._cached + min(cached, read)
        _, allowed = self._expected(demand)
        if allowed > 0:
            if not self._allowed:  # the first ones back are the short ones
                self._allowed = self._written = _PRIOR_ANSWERS * allowed
            self._allowed = _MEMORY * self._allowed + allowed
            self._written = _MEMORY * self._written + min(written, allowed)

    def feel(self, load: Load) -> None:
        """Estimates err: where requests are pushed out there is too much in flight; where tokens are short although there is room
        and nothing waits, too little. Not where much has come back since: then something else keeps requests back."""
        before, self._preemptions = self._preemptions, load.preemptions
        if before is not None and load.preemptions > before:
            self._stretch = max(_NARROWEST, self._stretch * _NARROWER)
        elif self.short and 2 * self.tokens >= self._tokens_when_short and not load.waiting and load.usage < _FULL:
            self._stretch = min(_WIDEST, self._stretch * _WIDER)

    def _expected(self, demand: Demand) -> tuple[float, float]:
        """Tokens of the prompt, and the most that all answers together may have."""
        context = self.capacity.context
        prompt = demand.prompt_bytes * self._read / self._bytes
        if context is None:
            return prompt, UNLIMITED_ANSWER_TOKENS * demand.requests if demand.answer_tokens is None else demand.answer_tokens
        prompt = min(prompt, context * demand.prompts)
        most = (context * demand.prompts - prompt) * demand.answers
        return prompt, most if demand.answer_tokens is None else min(demand.answer_tokens, most)
