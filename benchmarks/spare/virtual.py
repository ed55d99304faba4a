"""Online load, offline work and a guard around the SIMULATED server, all on virtual time: minutes of traffic in a second."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Protocol

import msgspec

from batchsched.executors.spare.governor import Budget, Goal, Governor, Traits
from batchsched.executors.spare.pace import Pace
from batchsched.executors.spare.window import Ours, Windows
from benchmarks.spare.simulated import Asked, Server, Shape

OURS = 10
"""Priority of offline requests; online ones have 0."""
_LOOKED_AT = 8


class Sizes(msgspec.Struct, frozen=True):
    """How long requests are: prompt and answer, tokens, log-normal around the medians."""

    prompt_tokens: float = 40.0
    output_tokens: float = 24.0
    spread: float = 0.5

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Prompt and answer of one request."""
        prompt, output = (median * rng.lognormvariate(0, self.spread) for median in (self.prompt_tokens, self.output_tokens))
        return max(1, round(prompt)), max(2, round(output))


class Guard(Protocol):
    """Decides how many offline requests are at the server."""

    def read(self, server: Server, ours: Ours, now_s: float) -> None:
        """The time for a reading has come."""
        ...

    def waits_s(self, in_flight: int, prompt_tokens: int, now_s: float) -> float:
        """As `Pace.waits_s`."""
        ...

    def went(self, prompt_tokens: int, now_s: float) -> None:
        """One was sent."""
        ...

    def excess(self, in_flight: int) -> int:
        """How many to push out at once."""
        ...

    def answered(self, seconds: float, tokens: int) -> None:
        """One of ours came back."""
        ...


class FixedCap:
    """At most so many in flight, whatever happens."""

    def __init__(self, cap: int) -> None:
        self.cap = cap

    def read(self, server: Server, ours: Ours, now_s: float) -> None:
        """Nothing to learn."""

    def waits_s(self, in_flight: int, prompt_tokens: int, now_s: float) -> float:
        """Room or none."""
        del prompt_tokens, now_s
        return 0.0 if in_flight < self.cap else math.inf

    def went(self, prompt_tokens: int, now_s: float) -> None:
        """Nothing to keep."""

    def excess(self, in_flight: int) -> int:
        """Never."""
        del in_flight
        return 0

    def answered(self, seconds: float, tokens: int) -> None:
        """Nothing to learn."""


class Governed:
    """Our governor, fed by the simulated server's counts."""

    def __init__(self, goal: Goal, ceiling: int, traits: Traits) -> None:
        self.governor, self.pace, self.traits = Governor(goal, ceiling), Pace(), traits
        self.caps: list[tuple[float, int]] = []
        self._windows = Windows(goal.ttft_s)

    @property
    def budget(self) -> Budget:
        """Of now."""
        return self.governor.budget

    def read(self, server: Server, ours: Ours, now_s: float) -> None:
        """A reading."""
        if window := self._windows.add(server.counts(now_s), ours):
            self.governor.see(window, self.traits)
        self.caps.append((now_s, self.budget.in_flight))

    def waits_s(self, in_flight: int, prompt_tokens: int, now_s: float) -> float:
        """As the pace says."""
        return self.pace.waits_s(self.budget, in_flight, prompt_tokens, now_s)

    def went(self, prompt_tokens: int, now_s: float) -> None:
        """Keep the pace."""
        self.pace.went(self.budget, prompt_tokens, now_s)

    def answered(self, seconds: float, tokens: int) -> None:
        """It tells how far single requests stray."""
        self.governor.answered(seconds, tokens)

    def excess(self, in_flight: int) -> int:
        """What is far above the cap goes."""
        return max(0, in_flight - self.budget.keep)


class Seen(msgspec.Struct):
    """What came out of a run."""

    online: list[Asked]
    offline_tokens: int
    wasted_tokens: int
    seconds: float

    @property
    def latencies(self) -> list[tuple[float, float]]:
        """Of each online request: seconds to the first token, and for each further."""
        return [(asked.first_s - asked.arrived_s, asked.tpot_s) for asked in self.online]

    @property
    def offline_tokens_per_s(self) -> float:
        """Written for offline requests that ended."""
        return self.offline_tokens / self.seconds


class _Run:
    def __init__(self, shape: Shape, arrivals: Iterable[tuple[float, int, int]], offline: Sizes, guard: Guard, seed: int) -> None:
        self.server, self.guard, self.offline = Server(shape, seed), guard, offline
        self.server.on_done = self._done
        self.arrivals = iter(arrivals)
        self.coming = next(self.arrivals, None)
        self.rng = random.Random(seed + 1)
        self.todo = [offline.draw(self.rng) for _ in range(_LOOKED_AT)]
        self.online: list[Asked] = []
        self.ours: list[Asked] = []
        self.sent = self.sent_tokens = self.gone = self.tokens = self.wasted = 0
        self.wake_s = 0.0
        self.under_way: list[tuple[float, int, Callable[[Asked, float], None], Asked]] = []
        """What reaches the server or us later: when, and what happens then."""
        self.number = 0

    @property
    def next_s(self) -> float:
        """When the next of it arrives."""
        return self.under_way[0][0] if self.under_way else math.inf

    def later(self, at_s: float, then: Callable[[Asked, float], None], asked: Asked) -> None:
        self.number += 1
        heappush(self.under_way, (at_s, self.number, then, asked))

    def receive(self) -> None:
        at_s, _, then, asked = heappop(self.under_way)
        then(asked, at_s)

    def _done(self, asked: Asked) -> None:
        if asked.priority and asked.ended_s is not None:
            self.later(asked.ended_s + self.server.shape.way_s, self._answered, asked)

    def _answered(self, asked: Asked, now_s: float) -> None:
        if asked in self.ours:  # else it was broken off, and nobody waits for it
            self.ours.remove(asked)
            self.tokens += asked.written
            self.guard.answered(now_s - asked.arrived_s + self.server.shape.way_s, asked.written)

    def _dropped(self, asked: Asked, now_s: float) -> None:
        del now_s
        if asked.ended_s is None:
            self.server.abort(asked)
        self.wasted += asked.written

    def pump(self, now_s: float) -> None:
        """Send what may go; a long prompt that has to wait is passed by others."""
        self.wake_s = math.inf
        while True:
            waits = [self.guard.waits_s(len(self.ours), prompt, now_s) for prompt, _ in self.todo]
            at = min(range(len(waits)), key=lambda i: (waits[i], i))
            if waits[at] > 0:
                self.wake_s = now_s + max(waits[at], 1e-6)
                return
            prompt, output = self.todo.pop(at)
            asked = Asked(prompt, output, OURS)
            self.later(now_s + self.server.shape.way_s, self.server.submit, asked)
            self.ours.append(asked)
            self.guard.went(prompt, now_s)
            self.sent, self.sent_tokens = self.sent + 1, self.sent_tokens + prompt
            self.todo.append(self.offline.draw(self.rng))

    def read(self, now_s: float) -> None:
        self.guard.read(self.server, Ours(len(self.ours), self.sent, self.sent_tokens, gone=self.gone), now_s)
        for _ in range(self.guard.excess(len(self.ours))):
            shape = self.server.shape
            self.later(now_s + max(shape.drop_s, shape.way_s), self._dropped, self.ours.pop())
            self.gone += 1

    def arrive(self) -> None:
        assert self.coming
        at_s, prompt, output = self.coming
        asked = Asked(prompt, output, 0)
        self.online.append(asked)
        self.server.submit(asked, at_s)
        self.coming = next(self.arrivals, None)


def simulate(
    shape: Shape,
    arrivals: Iterable[tuple[float, int, int]],
    offline: Sizes,
    guard: Guard,
    *,
    seconds: float,
    every_s: float = 0.5,
    seed: int = 0,
    watch: Callable[[float, Server], None] | None = None,
) -> Seen:
    """Serve the arrivals (second, prompt, answer) and as much offline work as the guard lets through, read each `every_s`."""
    run, now_s, read_s = _Run(shape, arrivals, offline, guard, seed), 0.0, 0.0
    run.pump(0.0)
    while now_s < seconds:
        ends_s = run.server.begin(now_s)
        soonest = now_s + shape.front_s if ends_s is None and run.server.waiting else math.inf
        while True:
            arrives_s = run.coming[0] if run.coming else math.inf
            at_s = min(arrives_s, read_s, run.wake_s, run.next_s, soonest, seconds)
            if at_s >= (seconds if ends_s is None else min(ends_s, seconds)):
                now_s = at_s
                break
            if at_s == arrives_s:
                run.arrive()
            elif at_s == run.next_s:
                run.receive()
            elif at_s == read_s:
                run.read(at_s)
                if watch:
                    watch(at_s, run.server)
                read_s += every_s
            now_s = at_s
            run.pump(at_s)
            if ends_s is None:
                break
        if ends_s is not None:
            run.server.end(ends_s)
            now_s = ends_s
            run.pump(now_s)
    ended = [asked for asked in run.online if asked.ended_s is not None]
    return Seen(ended, run.tokens, run.wasted, seconds)


def poisson(rate_per_s: float, seconds: float, sizes: Sizes, seed: int) -> list[tuple[float, int, int]]:
    """Arrivals without memory."""
    rng, at_s, found = random.Random(seed), 0.0, []
    while (at_s := at_s + rng.expovariate(rate_per_s)) < seconds:
        found.append((at_s, *sizes.draw(rng)))
    return found
