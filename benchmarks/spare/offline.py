"""The offline side of the benchmark, a process of its own: as much work as its guard lets through, until its input is closed.

`python -m benchmarks.spare.offline URL ARM SEED` with ARM as JSON: `{"kind": "cap", "cap": 8, "priority": true}`, or kind `aimd`
or `governed` with `ttft_s`, `tpot_s`, `ceiling`. It prints `ready`, begins at the first line of its input, and at the end prints
what was done as JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from batchsched.executors.spare.counts import Counts, read_counts
from batchsched.executors.spare.gate import PRIORITY, SpareGate
from batchsched.executors.spare.governor import Goal
from batchsched.executors.spare.port import Answer
from benchmarks.spare.online import body

PROMPT_TOKENS, ANSWER_TOKENS = 60, 60


class Guard(Protocol):
    """The part of a gate that is needed here."""

    def bind(self, on_room: Callable[[], None], push_out: Callable[[int], None]) -> None: ...

    def asks(self, prompt_tokens: float) -> Answer: ...

    def enters(self, prompt_tokens: float) -> int: ...

    def leaves(self, ticket: int, read: int = 0, written: int = 0) -> None: ...

    async def watch(self) -> None: ...


class Capped:
    """At most so many in flight."""

    def __init__(self, cap: float) -> None:
        self.cap, self.in_flight, self.sent = cap, 0, 0
        self.on_room: Callable[[], None] = lambda: None

    def bind(self, on_room: Callable[[], None], push_out: Callable[[int], None]) -> None:
        """It never pushes out."""
        del push_out
        self.on_room = on_room

    def asks(self, prompt_tokens: float) -> Answer:
        """Room or none."""
        del prompt_tokens
        return Answer.GO if self.in_flight < self.cap else Answer.LATER

    def enters(self, prompt_tokens: float) -> int:
        """One more."""
        del prompt_tokens
        self.in_flight += 1
        self.sent += 1
        return self.sent

    def leaves(self, ticket: int, read: int = 0, written: int = 0) -> None:
        """One less."""
        del ticket, read, written
        self.in_flight -= 1

    async def watch(self) -> None:
        """Nothing to see."""


class Aimd(Capped):
    """One more for each half second in which the engine's figures kept the goal, half as many after one in which they did not."""

    def __init__(self, goal: Goal, ceiling: int, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__(1.0)
        self._goal, self._ceiling, self._url, self._session = goal, ceiling, f"{url}/metrics", session

    async def watch(self) -> None:
        """Adds and halves."""
        last: Counts | None = None
        while True:
            await asyncio.sleep(0.5)
            async with self._session.get(self._url) as answer:
                counts = read_counts(await answer.text(), time.monotonic())
            if counts and last:
                self.cap = min(self._ceiling, self.cap + 1) if self._kept(last, counts) else max(1.0, self.cap / 2)
                self.on_room()
            last = counts or last

    def _kept(self, last: Counts, counts: Counts) -> bool:
        first, each = counts.first_token.since(last.first_token), counts.each_token.since(last.each_token)
        late = first.above(self._goal.ttft_s) > (1 - self._goal.share) * first.count + 0.5
        return not late and (each.mean or 0.0) <= self._goal.tpot_s and counts.waiting < 2


class Work:
    """Requests without end, sent as the guard allows."""

    def __init__(self, url: str, session: aiohttp.ClientSession, guard: Guard, priority: int | None, seed: int) -> None:
        self.tokens = self.answered = self.pushed = self.most = 0
        self._url, self._session, self._guard, self._priority = f"{url}/v1/completions", session, guard, priority
        self._rng = random.Random(seed)
        self._open: dict[int, asyncio.Task[None]] = {}
        self._next = self._drawn()
        self._over = False
        guard.bind(self.pump, self.push_out)

    @property
    def in_flight(self) -> int:
        """Requests at the server."""
        return len(self._open)

    def pump(self) -> None:
        """Send what may go."""
        while not self._over and self._guard.asks(self._next[0]) is Answer.GO:
            prompt, answer = self._next
            ticket = self._guard.enters(prompt)
            self._open[ticket] = asyncio.create_task(self._ask(ticket, prompt, answer))
            self.most = max(self.most, len(self._open))
            self._next = self._drawn()

    def push_out(self, count: int) -> None:
        """The youngest go."""
        for ticket in sorted(self._open, reverse=True)[:count]:
            self.pushed += 1
            self._open[ticket].cancel()

    async def end(self) -> None:
        """Break off everything."""
        self._over = True
        for task in list(self._open.values()):
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    def _drawn(self) -> tuple[int, int]:
        prompt, answer = (self._rng.lognormvariate(0, 0.5) * median for median in (PROMPT_TOKENS, ANSWER_TOKENS))
        return max(4, min(600, round(prompt))), max(8, min(400, round(answer)))

    async def _ask(self, ticket: int, prompt: int, answer: int) -> None:
        asked = body(self._rng, prompt, answer) | ({} if self._priority is None else {"priority": self._priority})
        read = written = 0
        try:
            async with self._session.post(self._url, json=asked) as reply:
                usage = (await reply.json())["usage"] if reply.status == 200 else {}
            read, written = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        except (aiohttp.ClientError, OSError, ValueError, KeyError):
            pass
        finally:
            del self._open[ticket]
            self._guard.leaves(ticket, read, written)
            if written:
                self.tokens, self.answered = self.tokens + written, self.answered + 1
            self.pump()


def _guard(arm: dict[str, Any], url: str, session: aiohttp.ClientSession, desk: Path) -> Guard:
    if arm["kind"] == "cap":
        return Capped(arm["cap"] if arm["cap"] is not None else math.inf)
    goal = Goal(arm["ttft_s"], arm["tpot_s"], 0.99)
    if arm["kind"] == "aimd":
        return Aimd(goal, arm["ceiling"], url, session)
    return SpareGate(goal, arm["ceiling"], url, session, desk_base=desk)


async def main(url: str, arm: dict[str, Any], seed: int) -> None:
    """Work until the input is closed."""
    loop = asyncio.get_running_loop()
    connector, timeout = aiohttp.TCPConnector(limit=0, keepalive_timeout=2), aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        with tempfile.TemporaryDirectory(prefix="bench-spare-desk-") as desk:
            guard = _guard(arm, url, session, Path(desk))
            work = Work(url, session, guard, PRIORITY if arm.get("priority", True) else None, seed)
            print("ready", flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            began = time.monotonic()
            watching = asyncio.create_task(guard.watch())
            work.pump()
            await loop.run_in_executor(None, sys.stdin.read)
            seconds, tokens = time.monotonic() - began, work.tokens
            await work.end()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    said: dict[str, Any] = {"tokens_per_s": tokens / seconds, "answered": work.answered, "pushed": work.pushed, "most": work.most}
    if isinstance(guard, SpareGate):
        said |= {"margin": guard.governor.margin, "cap": guard.budget.in_flight, "why": guard.budget.why}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
