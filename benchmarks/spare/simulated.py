"""A SIMULATED vLLM server on virtual time: continuous batching with chunked prefill, priorities, KV space and preemption.

It computes nothing. A step takes `base_s + per_decode_s x decoding + per_prefill_s x prompt tokens`, times log-normal noise. What
it decides follows vLLM's V1 scheduler: running requests first, then the waiting ones by priority and arrival, each step with a
budget of tokens; where KV space runs out, the last of the lowest priority is preempted and computes anew what it had. It
serves to tune and test a governor without the noise of a machine; figures of it are never those of a server.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import accumulate

import msgspec

from batchsched.executors.spare.counts import Counts
from batchsched.executors.spare.histogram import Histogram

# vLLM's own bounds, 0.32.
FIRST_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
EACH_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)


class Shape(msgspec.Struct, frozen=True):
    """How fast and how large the server is."""

    base_s: float = 0.0025
    per_decode_s: float = 0.00018
    per_prefill_s: float = 0.00003
    noise: float = 0.15
    """Standard deviation of a step's logarithm."""
    hiccup_share: float = 0.002
    """Of the steps, how many take `hiccup_s` longer."""
    hiccup_s: float = 0.03
    spell_share: float = 0.0
    """Of the time, how much the whole machine is slower by `spell_factor`, as where neighbours take their part of it."""
    spell_s: float = 15.0
    """How long such a spell lasts, on average."""
    spell_factor: float = 1.6
    front_s: float = 0.002
    """From a request's arrival until the engine may take it up."""
    way_s: float = 0.005
    """Between the offline side and the server, each way: of its requests, and of their answers."""
    drop_s: float = 0.05
    """From when a request is broken off until the engine drops it (vLLM was seen to take up to so long)."""
    kv_tokens: int = 60_000
    max_seqs: int = 128
    step_tokens: int = 2048
    priority: bool = True


class Asked(msgspec.Struct, eq=False):
    """A request at the server."""

    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    arrived_s: float = 0.0
    read: int = 0
    """Tokens whose keys and values it holds: of the prompt, and of the answer after a preemption."""
    to_read: int = 0
    written: int = 0
    """Up to the last step in which it began or ceased to decode; while it decodes each step writes one more."""
    since_step: int = 0
    first_s: float = 0.0
    ended_s: float | None = None

    @property
    def tpot_s(self) -> float:
        """Seconds for each token after the first."""
        return ((self.ended_s or self.first_s) - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


class _Counted:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.buckets = bounds, [0.0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        self.buckets[bisect_left(self.bounds, seconds)] += times
        self.total += seconds * times

    def read(self) -> Histogram:
        return Histogram(self.bounds, tuple(accumulate(self.buckets[:-1])), sum(self.buckets), self.total)


class Server:
    """Steps on virtual time: `begin` takes up what waits and says when the step ends, `end` writes its tokens.

    A step costs the same however many decode: when a request will end is known in steps as soon as it begins to decode.
    """

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape = shape
        self.waiting: list[Asked] = []
        self.preemptions = self.steps = 0
        self.held_tokens = 0
        """Of the KV space, whole blocks not counted."""
        self.on_done: Callable[[Asked], None] = lambda _: None
        self._rng, self._spells = random.Random(seed), random.Random(seed + 7)
        self._in_spell, self._spell_ends_s = True, 0.0
        self._reading: list[Asked] = []
        self._parts: list[tuple[Asked, int]] = []
        self._decoding: set[Asked] = set()
        self._ends: list[tuple[int, int, Asked]] = []
        self._number = 0
        self._prompt_tokens = self._written = self._finished = 0
        self._began_s = self._before_s = 0.0
        self._taken_up = 0
        """Requests that wait in the engine itself, as of the step's beginning."""
        self._shown = (0, 0, 0)
        self._first, self._each = _Counted(FIRST_BOUNDS), _Counted(EACH_BOUNDS)

    @property
    def running(self) -> int:
        """Requests that read or decode."""
        return len(self._reading) + len(self._decoding)

    def written(self, asked: Asked) -> int:
        """Tokens that a request has so far."""
        return asked.written + (self.steps - asked.since_step if asked in self._decoding else 0)

    def submit(self, asked: Asked, now_s: float) -> None:
        """A request arrives."""
        asked.arrived_s, asked.to_read = now_s, asked.prompt_tokens
        self.waiting.append(asked)

    def abort(self, asked: Asked) -> None:
        """The engine drops a request whose client went away; one that it has answered is none of its any more."""
        if asked in self.waiting:
            self.waiting.remove(asked)
        else:
            self._leave(asked)

    def begin(self, now_s: float) -> float | None:
        """Choose the next step's work; when it ends, or None where there is nothing to do."""
        shape = self.shape
        if not self.running and not any(asked.arrived_s + shape.front_s <= now_s for asked in self.waiting):
            self._taken_up = 0
            self._show()  # where all were broken off an empty step follows
            return None
        self._make_room()
        budget = shape.step_tokens - len(self._decoding)
        self._parts = []
        for asked in self._reading:
            if budget > 0:
                part = min(budget, asked.to_read - asked.read)
                self._parts.append((asked, part))
                budget -= part
        self._admit(now_s, budget)
        self._taken_up = sum(asked.arrived_s + shape.front_s <= now_s for asked in self.waiting)
        tokens = sum(part for _, part in self._parts)
        took = shape.base_s + shape.per_decode_s * len(self._decoding) + shape.per_prefill_s * tokens
        took *= self._rng.lognormvariate(0, shape.noise) * self._slower(now_s)
        if self._rng.random() < shape.hiccup_share:
            took += shape.hiccup_s
        self._began_s = now_s
        return now_s + took

    def end(self, now_s: float) -> None:
        """The step is done: tokens are written, requests that have all of theirs leave."""
        self.steps += 1
        if self._decoding:
            self._each.add(now_s - self._before_s, len(self._decoding))
            self._written += len(self._decoding)
            self.held_tokens += len(self._decoding)
        while self._ends and self._ends[0][0] <= self.steps:
            step, _, asked = heappop(self._ends)
            if asked in self._decoding and asked.since_step + asked.output_tokens - asked.written == step:
                self._done(asked, now_s)
        for asked, part in self._parts:
            if asked not in self._reading:
                continue  # aborted meanwhile
            asked.read += part
            self.held_tokens += part
            self._prompt_tokens += part
            if asked.read >= asked.to_read:
                self._first_written(asked, now_s)
        self._before_s = now_s
        self._show()

    def _show(self) -> None:
        self._shown = self.running, self._taken_up, self.held_tokens

    def counts(self, now_s: float) -> Counts:
        """What its /metrics would say: the state at the end of the last step, as vLLM's."""
        running, waiting, held_tokens = self._shown
        return Counts(
            now_s,
            running=running,
            waiting=waiting,
            kv_used=min(1.0, held_tokens / self.shape.kv_tokens),
            preemptions=self.preemptions,
            prompt_tokens=self._prompt_tokens,
            written_tokens=self._written,
            finished=self._finished,
            steps=self.steps,
            first_token=self._first.read(),
            each_token=self._each.read(),
        )

    def _slower(self, now_s: float) -> float:
        shape = self.shape
        if not shape.spell_share:
            return 1.0
        while now_s >= self._spell_ends_s:
            self._in_spell = not self._in_spell
            lasts_s = shape.spell_s if self._in_spell else shape.spell_s * (1 / shape.spell_share - 1)
            self._spell_ends_s += self._spells.expovariate(1 / lasts_s)
        return shape.spell_factor if self._in_spell else 1.0

    def _first_written(self, asked: Asked, now_s: float) -> None:
        """Its prompt is read, which gives a token; after a preemption the next of its tokens."""
        self._reading.remove(asked)
        if not asked.written:
            asked.first_s = now_s
            self._first.add(now_s - asked.arrived_s)
        asked.written += 1
        asked.since_step = self.steps
        self._written += 1
        self.held_tokens += 1
        self._decoding.add(asked)
        if asked.written >= asked.output_tokens:
            self._done(asked, now_s)
            return
        self._number += 1
        heappush(self._ends, (self.steps + asked.output_tokens - asked.written, self._number, asked))

    def _done(self, asked: Asked, now_s: float) -> None:
        asked.ended_s = now_s
        self._leave(asked)
        self._finished += 1
        self.on_done(asked)

    def _leave(self, asked: Asked) -> None:
        """It holds nothing any more; what it wrote is kept."""
        asked.written = self.written(asked)
        if asked in self._decoding:
            self._decoding.remove(asked)
            self.held_tokens -= asked.prompt_tokens + asked.written
        elif asked in self._reading:
            self._reading.remove(asked)
            self.held_tokens -= asked.read

    def _order(self, asked: Asked) -> tuple[int, float]:
        return (asked.priority if self.shape.priority else 0, asked.arrived_s)

    def _admit(self, now_s: float, budget: int) -> None:
        if not self.waiting:
            return
        free = self.shape.kv_tokens - self.held_tokens - sum(asked.to_read - asked.read for asked in self._reading)
        for asked in sorted(self.waiting, key=self._order):
            if asked.arrived_s + self.shape.front_s > now_s:
                continue
            if budget <= 0 or self.running >= self.shape.max_seqs or asked.to_read > free:
                break  # as vLLM does: nobody overtakes the first who finds no room
            part = min(budget, asked.to_read)
            budget -= part
            free -= asked.to_read
            self.waiting.remove(asked)
            self._reading.append(asked)
            self._parts.append((asked, part))

    def _make_room(self) -> None:
        """Preempt until the next token of everybody has a place."""
        while self.running > 1 and self.held_tokens + self.running > self.shape.kv_tokens:
            last = max((*self._decoding, *self._reading), key=self._order)
            self._leave(last)
            last.to_read, last.read = last.prompt_tokens + last.written, 0
            self.waiting.append(last)
            self.preemptions += 1
