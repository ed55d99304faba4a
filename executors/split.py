"""One request over two engines: the partner reads its prompt, our own engine answers from the keys and values that it is handed.

Both are kept full. Prompts are read ahead for as long as the partner's memory has room, counted from the asking until the keys
and values were read or have expired; requests wait here, not in our engine, until it has memory for prompt and answer together,
so that nothing it is handed can be too much for it. Whatever goes wrong on the partner's side, the request goes to our own engine
alone, as if there were no partner. The partner's one token is thrown away: only our own engine ever answers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from batchsched.executors.admission import Admission, Capacity, Load
from batchsched.executors.answers import Verdict, judge
from batchsched.executors.demand import Demand
from batchsched.executors.handoff import LEASE_S, Fields, Kept, alone, first_body, kept_of, parts_of, second_body
from batchsched.executors.outputs import Reply
from batchsched.executors.pauses import LONGEST_ASK_S
from batchsched.executors.probes import Fetching
from batchsched.executors.turns import Turns
from batchsched.kv_link import KvLink

log = logging.getLogger(__name__)
FRESH_S = LEASE_S / 2
"""Older ones are not handed over: what is read after its time may be somebody else's."""
READ_S = 300.0
"""No prompt takes longer to be read; what does goes alone. An engine that has read none in that time stands still."""
STUCK_S = 60.0
"""Where our engine fetches keys and values and for so long none have come, none will: seen of connections to engines that were
killed, which end neither well nor with an error."""
_SURE_PROMPTS, _SURE_S = 32, 2.0
"""So many prompts, and so long, before a link is judged too slow for them."""
Post = Callable[[str, bytes], Awaitable[Reply]]
"""Sends a body to a URL; 0 for its status where no whole answer came."""


class Reader(Protocol):
    """The partner's engine, as far as it is known."""

    @property
    def url(self) -> str:
        """Where it answers; empty while it is not to be asked."""
        ...

    @property
    def served(self) -> str:
        """By which name it serves the model."""
        ...

    def failed(self, why: str, *, anew: bool = False) -> None:
        """It did not answer; `anew`: nor is it to be asked again before it was started anew."""
        ...


class Split:
    """Of one worker, as long as its engine serves a model in this mode. `ahead` counts the partner's memory, `answering` ours."""

    def __init__(self, reader: Reader, ahead: Admission, answering: Admission, link: KvLink | None = None) -> None:
        self.refused = ""
        """Why nothing is handed over, with the numbers; empty while it is."""
        self.counts: Counter[str] = Counter()
        """Requests `handed` over, answered `alone`, `repeated` alone after an error or because they were `stuck`; prompt `tokens`
        handed over."""
        self.link = link
        self._reader = reader
        self._ahead, self._answering = Turns(ahead), Turns(answering)
        self._offered: list[_Held] = []
        self._reading, self._busy_s, self._since, self._rests_since = 0, 0.0, 0.0, 0.0
        self._barren, self._barren_since = "", 0.0  # where it is asked to read and has read nothing, and since when
        self._fetched, self._fetched_at = 0.0, 0.0

    async def ask(self, demand: Demand, endpoint: str, body: bytes, url: str, *, read: Post, answer: Post) -> Reply:
        """The answer of our engine at `url`. `read` asks the partner, `answer` our own."""
        fields = parts_of(body, endpoint, demand) if self._reader.url and not self.refused else None
        held = await self._read(demand, endpoint, fields, read) if fields is not None else None
        try:
            room = await self._answering.enter(demand)
        except asyncio.CancelledError:
            if held:
                held.expire()
            raise
        assert room is not None, "ours is never shut"
        try:
            if held and fields is not None and held.fresh:
                reply = await self._go_on(held, fields, url + endpoint, answer)
                if reply is not None and not _to_repeat(reply):
                    return reply
                self.counts["repeated"] += 1
            elif held:
                held.expire()
            self.counts["alone"] += 1
            return await answer(url + endpoint, alone(body))
        finally:
            self._answering.leave(room)

    # What the driver and the partner's watch say.

    def resize(self, capacity: Capacity) -> Capacity:
        """Our engine began anew, and holds so much; what may be on its way through both."""
        self._answering.admission.resize(capacity)
        return self.room

    @property
    def room(self) -> Capacity:
        """Of both together: as much may be on its way as the two can hold, and wait for its turn."""
        ours, ahead = self._answering.admission, self._ahead.admission
        budget = ours.budget + (ahead.budget if self._ahead.open else 0.0)
        waiting = ahead.most_requests if self._ahead.open else 0
        return ours.capacity._replace(tokens=None if math.isinf(budget) else int(budget), ahead=waiting)

    @property
    def asked(self) -> int:
        """Requests that our engine has now; the others wait for the partner's, or for their turn."""
        return self._answering.admission.requests

    @property
    def ahead_tokens(self) -> int | None:
        """That the partner's engine can hold; None where it does not say."""
        return self._ahead.admission.capacity.tokens

    def feel(self, load: Load) -> None:
        """How our engine fares."""
        self._answering.admission.feel(load)
        self._answering.look()

    def learn(self, demand: Demand, read: int, cached: int, written: int) -> None:
        """What a request turned out to be."""
        self._answering.admission.learn(demand, read, cached, written)

    def fetching(self, seen: Fetching, now: float) -> None:
        """What our engine fetches, at that time (monotonic seconds). Where nothing comes any more, what was offered for so long
        goes alone, and the partner's engine, whose memory cannot be read, is to be started anew."""
        if not seen.under_way or seen.over != self._fetched:
            self._fetched, self._fetched_at = seen.over, now
        elif now - self._fetched_at >= STUCK_S:
            stuck = [held for held in self._offered if now - held.offered_at >= STUCK_S]
            self._fetched_at = now
            self.counts["stuck"] += len(stuck)
            for held in stuck:
                held.give_up()
            self._reader.failed(f"what it holds cannot be fetched: none of {seen.under_way:.0f} in {STUCK_S:.0f} s", anew=True)

    def crowded(self) -> None:
        """Our engine ran out of memory all the same."""
        self._answering.admission.crowded()

    def found(self, capacity: Capacity) -> None:
        """The partner's engine is there, and holds so much."""
        self._ahead.admission.resize(capacity)
        self._ahead.reopen()

    def lost(self) -> None:
        """It is gone, and all that it held: who waited for it goes alone."""
        self._ahead.shut()

    def look(self, load: Load | None, held_tokens: float | None, looked_at: float) -> None:
        """How the partner fared at that time (monotonic seconds), and what it held for anybody: once this is no more than what
        it is reading or waits for our engine, all that was offered before was read."""
        if load is not None:
            self._ahead.admission.feel(load)
        offered = [held for held in self._offered if not held.free]
        if held_tokens is not None and held_tokens <= self._ahead.admission.tokens - sum(held.room for held in offered):
            for held in offered:
                if held.offered_at < looked_at:
                    held.release()
        self._ahead.look()

    # The two steps.

    async def _read(self, demand: Demand, endpoint: str, fields: Fields, read: Post) -> _Held | None:
        """Have the partner read the prompt; None where it did not."""
        room = await self._ahead.enter(demand._replace(answer_tokens=1))
        url, served = self._reader.url, self._reader.served
        if room is None:
            return None
        held = _Held(self._ahead, room)
        if not url:
            held.release()
            return None
        self._begin(url)
        try:
            async with asyncio.timeout(READ_S):
                reply = await read(url + endpoint, first_body(fields, served))
        except TimeoutError:
            reply = Reply(0, f"nothing within {READ_S:.0f} s".encode(), "", "timeout")
        except asyncio.CancelledError:
            held.expire()  # it may have been on its way back
            raise
        finally:
            self._end()
        held.kept = kept_of(reply.body) if reply.status == 200 else None
        if held.kept is None:
            self._unread(held, reply)
            return None
        held.read_at = self._barren_since = time.monotonic()
        self._barren = url if self._reading else ""
        self._ahead.admission.learn(demand._replace(answer_tokens=1), held.kept.tokens, 0, 1)
        self._judge(held.kept.tokens)
        return held

    async def _go_on(self, held: _Held, fields: Fields, url: str, answer: Post) -> Reply | None:
        """Our engine's answer from what is held; where it gives none, that is held until its time is over. None where it was
        given up, for it will never be fetched."""
        assert held.kept is not None
        held.offered_at = time.monotonic()
        self._offered.append(held)
        try:
            async with held.limit:
                reply = await answer(url, second_body(fields, held.kept))
        except TimeoutError:
            held.expire()
            return None
        except asyncio.CancelledError:
            held.expire()
            raise
        finally:
            self._offered.remove(held)
        if 200 <= reply.status < 500:  # read, or refused, of which vLLM tells the one that holds it
            held.release()
            self.counts.update(handed=1, tokens=held.kept.tokens)
        else:
            held.expire()
        return reply

    def _unread(self, held: _Held, reply: Reply) -> None:
        """The partner read nothing. What is wrong with the request itself, our own engine will say."""
        if reply.status == 0:
            held.expire()  # perhaps it was only slow
        else:
            held.release()
        verdict = judge(reply.status, reply.body).verdict
        if verdict in {Verdict.TROUBLE, Verdict.WRONG_ENGINE}:
            said = reply.body[:200].decode("utf-8", "replace")
            still = bool(self._barren) and time.monotonic() - self._barren_since >= READ_S
            self._reader.failed(f"status {reply.status}: {said}" if reply.status else said, anew=still)
        elif verdict is Verdict.OK:
            self._reader.failed("it answers without keeping anything for us: was it started as a partner?")

    # Does the link carry it?

    def _begin(self, url: str) -> None:
        now = time.monotonic()
        if not self._reading:
            self._since = now
            # It stands still while it is asked, and while it is left alone after a failure; not while nobody has anything to ask.
            self._barren_since += max(0.0, now - self._rests_since - LONGEST_ASK_S)
        if self._barren != url:
            self._barren, self._barren_since = url, now
        self._reading += 1

    def _end(self) -> None:
        self._reading -= 1
        if not self._reading:
            self._rests_since = time.monotonic()
            self._busy_s += self._rests_since - self._since

    def _judge(self, tokens: int) -> None:
        """What the partner reads in a second, were it never to wait, against what the link carries."""
        self.counts.update(read=1, read_tokens=tokens)
        busy_s = self._busy_s + (time.monotonic() - self._since if self._reading else 0.0)
        if self.link and not self.refused and self.counts["read"] >= _SURE_PROMPTS and busy_s >= _SURE_S:
            self.refused = self.link.complaint(self.counts["read_tokens"] / busy_s)
            if self.refused:
                log.warning("Nothing more is handed over between the two engines: %s.", self.refused)


class _Held:
    """Room in the partner's memory for one prompt, given back once."""

    def __init__(self, turns: Turns, room: int) -> None:
        self.room = room
        self.free = False
        self.kept: Kept | None = None
        self.read_at = self.offered_at = 0.0
        self.limit = asyncio.timeout(None)
        """Of the wait for an answer from it."""
        self._turns = turns

    @property
    def fresh(self) -> bool:
        """Is it sure to be there still?"""
        return time.monotonic() - self.read_at < FRESH_S

    def give_up(self) -> None:
        """Nobody waits for an answer from it any longer."""
        self.limit.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """It was read, or never held."""
        if not self.free:
            self.free = True
            self._turns.leave(self.room)

    def expire(self) -> None:
        """Nobody will read it: it is in the way until its time is over."""
        if not self.free:
            asyncio.get_running_loop().call_later(LEASE_S, self.release)


def _to_repeat(reply: Reply) -> bool:
    """An error of the engine's that may come of what it was handed; not one of an engine that is gone or goes."""
    return reply.status >= 500 and judge(reply.status, reply.body).verdict is Verdict.TROUBLE
