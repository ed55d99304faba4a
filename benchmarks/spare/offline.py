"""The offline side of the benchmark, a process of its own: as much work as its guard lets through, a stretch at a time.

`python -m benchmarks.spare.offline URL ARM SEED` with ARM as JSON: `{"kind": "cap", "cap": 8, "priority": true}`, or kind `aimd`
or `governed` with `ttft_s`, `tpot_s`, `ceiling`. It prints `ready`; each line of its input begins a stretch or ends it, and at
its end it prints as JSON what was done so far. Between two stretches it sends nothing, and its guard sees nothing and keeps what
it has learnt: the server belongs to others then.
"""

from __future__ import annotations

import asyncio
import json
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

    def __init__(self, url: str, session: aiohttp.ClientSession, priority: int | None, seed: int) -> None:
        self.tokens = self.answered = self.pushed = self.most = 0
        self._url, self._session, self._priority = f"{url}/v1/completions", session, priority
        self._rng = random.Random(seed)
        self._open: dict[int, asyncio.Task[None]] = {}
        self._next = self._drawn()
        self._guard: Guard | None = None

    @property
    def in_flight(self) -> int:
        """Requests at the server."""
        return len(self._open)

    def begin(self, guard: Guard) -> None:
        """From now on that guard allows."""
        self._guard = guard
        guard.bind(self.pump, self.push_out)
        self.pump()

    def pump(self) -> None:
        """Send what may go."""
        while (guard := self._guard) and guard.asks(self._next[0]) is Answer.GO:
            prompt, answer = self._next
            ticket = guard.enters(prompt)
            self._open[ticket] = asyncio.create_task(self._ask(guard, ticket, prompt, answer))
            self.most = max(self.most, len(self._open))
            self._next = self._drawn()

    def push_out(self, count: int) -> None:
        """The youngest go."""
        for ticket in sorted(self._open, reverse=True)[:count]:
            self.pushed += 1
            self._open[ticket].cancel()

    async def end(self) -> None:
        """Break off everything."""
        self._guard = None
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drawn(self) -> tuple[int, int]:
        prompt, answer = (self._rng.lognormvariate(0, 0.5) * median for median in (PROMPT_TOKENS, ANSWER_TOKENS))
        return max(4, min(600, round(prompt))), max(8, min(400, round(answer)))

    async def _ask(self, guard: Guard, ticket: int, prompt: int, answer: int) -> None:
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
            guard.leaves(ticket, read, written)
            if written:
                self.tokens, self.answered = self.tokens + written, self.answered + 1
            self.pump()


class OwnTime:
    """Seconds of the stretches alone: between them it stands still."""

    def __init__(self) -> None:
        self.before_s = 0.0
        self._began_s: float | None = None

    def __call__(self) -> float:
        """Of now."""
        return self.before_s + (time.monotonic() - self._began_s if self._began_s is not None else 0.0)

    def begin(self) -> None:
        """A stretch begins."""
        self._began_s = time.monotonic()

    def end(self) -> None:
        """It ends."""
        self.before_s, self._began_s = self(), None


class Side:
    """One arm: its work, its guard, and what the guard has learnt."""

    def __init__(self, arm: dict[str, Any], url: str, session: aiohttp.ClientSession, desk: Path, seed: int) -> None:
        self._arm, self._url, self._session, self._desk = arm, url, session, desk
        self._goal = Goal(arm["ttft_s"], arm["tpot_s"], 0.99) if "ttft_s" in arm else Goal()
        self.work = Work(url, session, PRIORITY if arm.get("priority", True) else None, seed)
        self._time = OwnTime()
        self._guard = self._new_guard()
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A stretch."""
        if isinstance(self._guard, SpareGate):  # its readings of the others' stretches would be no readings of its own
            governor, self._guard = self._guard.governor, self._new_guard()
            self._guard.governor = governor
        self._time.begin()
        self._watching = asyncio.create_task(self._guard.watch())
        self.work.begin(self._guard)

    async def end(self) -> dict[str, Any]:
        """Its end, and what was done so far."""
        tokens, work = self.work.tokens, self.work
        self._time.end()
        await work.end()
        if self._watching:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        said: dict[str, Any] = {"tokens_per_s": tokens / self._time(), "answered": work.answered}
        said |= {"pushed": work.pushed, "most": work.most}
        if isinstance(self._guard, SpareGate):
            governor = self._guard.governor
            said |= {"margin": governor.margin, "cap": governor.budget.in_flight, "why": governor.budget.why}
        return said

    def _new_guard(self) -> Any:
        arm = self._arm
        if arm["kind"] == "cap":
            return Capped(arm["cap"])
        if arm["kind"] == "aimd":
            return Aimd(self._goal, arm["ceiling"], self._url, self._session)
        return SpareGate(self._goal, arm["ceiling"], self._url, self._session, now=self._time, desk_base=self._desk)


async def main(url: str, arm: dict[str, Any], seed: int) -> None:
    """Work until the input is closed."""
    loop = asyncio.get_running_loop()
    connector, timeout = aiohttp.TCPConnector(limit=0, keepalive_timeout=2), aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        with tempfile.TemporaryDirectory(prefix="bench-spare-desk-") as desk:
            side = Side(arm, url, session, Path(desk), seed)
            print("ready", flush=True)
            while await loop.run_in_executor(None, sys.stdin.readline):
                side.begin()
                await loop.run_in_executor(None, sys.stdin.readline)
                print(json.dumps(await side.end()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
