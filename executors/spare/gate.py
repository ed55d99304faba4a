"""The gate of a worker whose engine belongs to online users: reads the server, governs, and says what may go.

One reading each half second. What the governor decides holds for all workers of this machine on that server; the desk keeps them
to it together. The gate lets go of requests when the server cannot carry them any more, the youngest first, for they lose least.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec

from batchsched.executors.spare.counts import Counts, read_counts
from batchsched.executors.spare.desk import Desk, server_of
from batchsched.executors.spare.governor import Budget, Goal, Governor, Traits
from batchsched.executors.spare.hours import Hours, could
from batchsched.executors.spare.pace import Pace
from batchsched.executors.spare.port import Answer
from batchsched.executors.spare.window import Ours, Windows
from batchsched.fleet import Pool
from batchsched.wire import Sharing, SpareSeen

log = logging.getLogger(__name__)
EVERY_S = 0.5
"""Between two readings."""
PRIORITY = 100
"""Of offline requests: the lower go first, and online ones have 0."""
_MEMORY = 0.02
_PATIENCE_S = 1.0
_UNGOVERNED_S = 12.0
"""Longer than a governor may be blind: after that nobody governs at all."""


class _Ticket(msgspec.Struct):
    at_s: float
    prompt_tokens: float
    """Of all its prompts together."""
    answers: int
    prompts: int


class SpareGate:
    """Of one worker at one server. Run `watch` beside the driver."""

    priority = PRIORITY

    def __init__(
        self,
        goal: Goal,
        ceiling: int,
        server_url: str,
        session: aiohttp.ClientSession,
        *,
        now: Callable[[], float] = time.monotonic,
        desk_base: Path | None = None,
        every_s: float | None = None,
    ) -> None:
        self.governor, self._ceiling = Governor(goal, ceiling), ceiling
        self.pushed_out = 0
        """Requests, since the beginning."""
        self._url, self._session, self._now, self._every_s = f"{server_url.rstrip('/')}/metrics", session, now, every_s or EVERY_S
        self._server = server_of(server_url)
        self._desk, self._pace, self._hours = Desk(server_url, desk_base), Pace(), Hours(self._server)
        self._traits = Traits()
        self._windows = Windows(goal.ttft_s)
        self._ours, self._done = Ours(), 0
        self._tickets: dict[int, _Ticket] = {}
        self._number = 0
        self._on_room: Callable[[], None] = lambda: None
        self._push_out: Callable[[int], None] = lambda _: None
        self._governed_s = -math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def budget(self) -> Budget:
        """Of now, for all workers on the server together."""
        return self.governor.budget

    @property
    def expected_step_s(self) -> float:
        """Seconds of a step of the server as it is now."""
        return self.governor.lasting_s

    # The driver's side.

    def bind(self, on_room: Callable[[], None], push_out: Callable[[int], None]) -> None:
        """As the port says."""
        self._on_room, self._push_out = on_room, push_out

    def asks(self, prompt_tokens: float, answers: int = 1) -> Answer:
        """As the port says."""
        if self._stopped or self._now() - self._governed_s > _UNGOVERNED_S:
            return Answer.LATER
        if not self._desk.has_room(self.budget.in_flight, answers):
            return Answer.LATER
        waits_s = self._waits_s(prompt_tokens)
        if waits_s <= 0:
            return Answer.GO
        self._ask_again_in(waits_s)
        return Answer.PASS_BY if self._waits_s(0) <= 0 else Answer.LATER

    def enters(self, prompt_tokens: float, answers: int = 1, prompts: int = 1) -> int:
        """As the port says. Between `asks` and here another worker may have taken the room: then there is one too many for the
        time of one request."""
        desk = self._desk
        if not desk.take(self.budget.in_flight, answers):
            desk.say(in_flight=desk.mine.in_flight + answers)
        desk.say(
            sent=desk.mine.sent + answers,
            sent_tokens=desk.mine.sent_tokens + round(prompt_tokens / prompts * answers),
            slow_first=desk.mine.slow_first + self._slow(prompt_tokens, prompts) * answers // prompts,
        )
        self._pace.went(self.budget, self._shared(prompt_tokens), self._now())
        self._number += 1
        self._tickets[self._number] = _Ticket(self._now(), prompt_tokens, answers, prompts)
        return self._number

    def leaves(self, ticket: int, read: int = 0, written: int = 0) -> None:
        """As the port says."""
        entered = self._tickets.pop(ticket, None)
        if entered is None:
            return
        desk = self._desk
        desk.say(
            in_flight=max(0, desk.mine.in_flight - entered.answers),
            done_tokens=desk.mine.done_tokens + read + written,
            gone=desk.mine.gone + (entered.answers if read + written == 0 else 0),
        )
        if read + written > 0:  # embeddings are read alone
            each, known = written // entered.answers, self._traits
            self.governor.answered(self._now() - entered.at_s, each)
            self._traits = Traits(
                known.prompt_tokens + _MEMORY * (read / entered.prompts - known.prompt_tokens),
                known.output_tokens + _MEMORY * (each - known.output_tokens),
            )

    def idle(self, nothing_to_send: bool) -> None:
        """As the port says."""
        wants = int(not nothing_to_send)
        if self._desk.mine.wants != wants:
            self._desk.say(wants=wants)

    def lost_tokens(self, ticket: int) -> int:
        """About how many tokens the server has computed for a request, its prompt included: what is lost when it is let go."""
        entered = self._tickets.get(ticket)
        if entered is None:
            return 0
        age_s = self._now() - entered.at_s
        read_s = entered.prompt_tokens * self.budget.prompt_token_s
        step_s = self.expected_step_s
        written = entered.answers * max(0.0, age_s - read_s) / step_s if step_s > 0 else 0.0
        return round(min(1.0, age_s / max(read_s, 1e-9)) * entered.prompt_tokens + written)

    # The server's side.

    async def watch(self) -> None:
        """Read the server and govern; runs until cancelled, and leaves the desk then."""
        try:
            await self._watch()
        finally:
            self.close()

    async def _watch(self) -> None:
        while True:
            began_s = self._now()
            try:
                counts = await self._read(began_s)
                self._desk.refresh()
                self._govern(counts)
                self._governed_s = self._now()
            except Exception:  # ungoverned work would harm others: it stops of itself when this goes on
                log.exception("The server at %s could not be governed.", self._url)
            await asyncio.sleep(max(0.05, began_s + self._every_s - self._now()))

    def let_go(self) -> None:
        """Everything of this worker leaves the server now, and nothing more goes there."""
        self._stopped = True
        self._push_out(len(self._tickets))

    def resume(self) -> None:
        """After `let_go`: go on."""
        self._stopped = False
        self._on_room()

    def seen(self) -> SpareSeen | None:
        """What the server had for offline work since the last time."""
        return self._hours.take()

    def unseen(self, seen: SpareSeen | None) -> None:
        """It did not reach the server."""
        self._hours.give_back(seen)

    def sharing(self, wants: bool) -> Sharing:
        """Where this worker is; `wants`: it has work."""
        return Sharing(self._server, self._desk.name, wants)

    def share(self, ceiling: int | None) -> None:
        """Others keep a desk of their own at the server: what is left of the ceiling for the workers of this one; None: all."""
        self.governor.ceiling = self._ceiling if ceiling is None else min(self._ceiling, ceiling)

    def close(self) -> None:
        """The worker ends."""
        if self._alarm:
            self._alarm.cancel()
        self._desk.close()

    async def _read(self, at_s: float) -> Counts | None:
        try:
            async with self._session.get(self._url, timeout=aiohttp.ClientTimeout(total=_PATIENCE_S)) as answer:
                return read_counts(await answer.text(), at_s) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    def _govern(self, counts: Counts | None) -> None:
        before = self.budget
        if counts is None:
            last = self._windows.last
            age_s = self._now() - last.at_s if last else math.inf
            self.governor.blind(age_s, self._every_s)
        else:
            self._learn(counts)
        if self.budget.why != before.why:
            log.debug("Spare: %d in flight at most (%s).", self.budget.in_flight, self.budget.why)
        self._push(self.budget)
        if self.budget.in_flight > before.in_flight or self._desk.mine.in_flight < self.budget.in_flight:
            self._on_room()

    def _learn(self, counts: Counts) -> None:
        first, done = self._windows.last is None, self._done
        self._ours, self._done = self._desk.all, self._desk.done_tokens
        window = self._windows.add(counts, self._ours)
        if window is None:
            if not first:
                log.warning("The server at %s began anew.", self._url)
                self.governor.restarted()
            return
        self.governor.see(window, self._traits)
        did = (self._done - done) / window.seconds
        self._hours.saw(window.seconds, did if self._desk.wanted else could(self.governor, window, self._traits))

    def _push(self, budget: Budget) -> None:
        """Let go of what the server cannot carry: of all workers' excess this one's part."""
        total, mine = self._desk.all.in_flight, self._desk.mine.in_flight
        excess = total - budget.keep
        if excess <= 0 or not mine:
            return
        part = self._youngest(math.ceil(excess * mine / max(total, mine)))
        if budget.keep and mine == total and part == len(self._tickets):
            part -= 1  # one for more answers than fit went alone: it may end
        if part:
            log.info("Spare: %d requests make room (%s).", part, budget.why)
            self.pushed_out += part
            self._push_out(part)

    def _youngest(self, answers: int) -> int:
        """How many of our requests have that many answers to give, the youngest counted first."""
        given = itertools.accumulate(ticket.answers for ticket in reversed(self._tickets.values()))
        return min(len(self._tickets), 1 + sum(sofar < answers for sofar in given))

    def _slow(self, prompt_tokens: float, prompts: int) -> int:
        """How many of so many prompts, read one after the other, end later than the first tokens that users are promised."""
        left_s, reads_s = self.governor.goal.ttft_s - self.expected_step_s, prompt_tokens * self.budget.prompt_token_s
        if reads_s <= left_s:
            return 0
        return prompts - int(prompts * max(0.0, left_s) / reads_s) if reads_s > 0 else prompts

    def _waits_s(self, prompt_tokens: float) -> float:
        return self._pace.waits_s(self.budget, 0, self._shared(prompt_tokens), self._now())

    def _shared(self, prompt_tokens: float) -> float:
        """A prompt as it weighs here: where several send, each has its part of the server's time."""
        return prompt_tokens * (1 + sum(each.wants for each in self._desk.others))

    def _ask_again_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + max(seconds, 0.001)
        if self._alarm:
            if loop.time() < self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._on_room)


def gate_for(pool: Pool, server_url: str, session: aiohttp.ClientSession) -> SpareGate | None:
    """Of a worker of that pool; None where the engine is its own."""
    if pool.kind != "spare" or pool.slo is None:
        return None
    goal = Goal(pool.slo.ttft_ms / 1000, pool.slo.tpot_ms / 1000, pool.slo.percentile / 100)
    return SpareGate(goal, pool.most_in_flight, server_url, session)
