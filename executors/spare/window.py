"""What happened at a server between two readings, ours and the online users' told apart.

The server counts a request of ours a moment after we have sent it, and forgets one that we broke off a moment later than we do.
Without care each such moment looks like an online user who came. So what was sent or broken off lately, and is not yet seen in
the server's figures, is owed: what comes to them next is ours first.
"""

from __future__ import annotations

import msgspec

from batchsched.executors.spare.counts import Counts
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.response import Step

_FEW_TOKENS = 5
_FEW_STAYS = 3
_LAG_S = 4.0
"""Nothing is owed for longer: what was not counted by then never will be."""


class Ours(msgspec.Struct, frozen=True):
    """What the offline side knows of itself, all workers of the server together."""

    in_flight: int = 0
    sent: int = 0
    """Requests since the beginning, as all that follows."""
    sent_tokens: int = 0
    """Of their prompts."""
    slow_first: int = 0
    """Of these, those whose prompts are so long that their own first token comes later than the online users' goal."""
    gone: int = 0
    """Of these, those that were broken off, refused or lost: the server never counts them as finished."""


class Window(msgspec.Struct, frozen=True):
    """The time between two readings of one life of a server."""

    at_s: float
    seconds: float
    online: float
    """Requests of online users at the server at its end, waiting ones included."""
    surely_online: float
    """Of these, those that cannot be ours: what the server still lists of ours may have been answered meanwhile."""
    arrived: float
    """Requests of online users that came."""
    ours: float
    """Offline requests at the server, mean of its two ends."""
    served: float
    """Requests of everybody that have a place in the engine, at its end."""
    waiting: float
    preempted: float
    kv_used: float
    step: Step | None
    """None where the server decoded too little to tell."""
    our_prompt_tokens: float
    """Of the prompt tokens of a step, how many were ours."""
    first_token: Histogram
    """Of everybody, without ours that are slow by themselves."""
    only_reads: bool = False
    """The server never decodes: `step` is a request's whole stay then, and who was there at once stands for who decodes."""


class Windows:
    """Windows out of readings, one after the other."""

    def __init__(self, slow_above_s: float) -> None:
        """`slow_above_s`: the goal for first tokens."""
        self.last: Counts | None = None
        self._slow_above_s = slow_above_s
        self._ours = Ours()
        self._gone = 0
        """Broken off in the window before."""
        self._owed = 0.0
        self._lately: list[tuple[float, int]] = []
        """When how many were sent or broken off."""

    def add(self, counts: Counts, ours: Ours) -> Window | None:
        """What happened since the last reading; `ours`: as known right after this one. None for the first of a server's life."""
        last, then, self.last, self._ours = self.last, self._ours, counts, ours
        if last is None or not counts.follows(last):
            self._owed, self._gone, self._lately = 0.0, 0, []
            return None
        sent = ours.sent - then.sent
        there = counts.running + counts.waiting
        came = there - last.running - last.waiting + counts.finished - last.finished
        each, first = counts.each_token.since(last.each_token), counts.first_token.since(last.first_token)
        seconds, only_reads = counts.at_s - last.at_s, counts.only_reads
        step = _stay(first, seconds) if only_reads else _step(last, counts, each, seconds)
        read = max(1.0, counts.prompt_tokens - last.prompt_tokens)
        online, arrived = max(0.0, there - ours.in_flight), self._not_ours(counts.at_s, came, then, ours)
        our_part = min(1.0, (ours.sent_tokens - then.sent_tokens) / read) if online or arrived else 1.0
        return Window(
            at_s=counts.at_s,
            seconds=seconds,
            online=online,
            surely_online=max(0.0, there - then.in_flight - sent),
            arrived=arrived,
            ours=(then.in_flight + ours.in_flight) / 2,
            served=counts.running,
            waiting=counts.waiting,
            preempted=counts.preemptions - last.preemptions,
            kv_used=counts.kv_used,
            step=step,
            our_prompt_tokens=our_part * step.prompt_tokens if step else 0.0,
            first_token=_without_slow(first, ours.slow_first - then.slow_first, self._slow_above_s),
            only_reads=only_reads,
        )

    def _not_ours(self, now_s: float, came: float, then: Ours, ours: Ours) -> float:
        """Of those that came, by the server's figures, those of online users. One that was broken off may have left the figures
        in this window or leaves them in the next: in both cases nobody came or went but it."""
        sent, gone = ours.sent - then.sent, ours.gone - then.gone
        self._lately = [(at_s, many) for at_s, many in self._lately if at_s > now_s - _LAG_S] + [(now_s, sent + gone)]
        balance, self._gone = came + self._gone - sent - self._owed, gone
        self._owed = min(max(0.0, -balance), ours.in_flight + gone, sum(many for _, many in self._lately))
        return max(0.0, balance)


def _step(earlier: Counts, later: Counts, each: Histogram, seconds: float) -> Step | None:
    if each.count < _FEW_TOKENS or each.mean is None:
        return None
    if later.steps is not None and earlier.steps is not None and later.steps > earlier.steps:
        steps = later.steps - earlier.steps
    else:
        steps = max(1.0, seconds / each.mean)
    computed = max(0.0, later.prompt_tokens - earlier.prompt_tokens - (later.cached_tokens - earlier.cached_tokens))
    return Step(each.mean, each.count / steps, computed / steps)


def _stay(first: Histogram, seconds: float) -> Step | None:
    """How long requests stayed that were answered, and how many were there at once: by Little's law what they stayed together."""
    if first.count < _FEW_STAYS or first.mean is None:
        return None
    return Step(first.mean, first.total / seconds, 0.0)


def _without_slow(seen: Histogram, slow: int, above_s: float) -> Histogram:
    """Without that many of those above: they are ours, and known to be slow."""
    if not slow or not seen.count:
        return seen
    gone = min(float(slow), seen.above(above_s))
    left = seen.count - gone
    mean = (seen.total / seen.count) if seen.count else 0.0
    at_most = tuple(min(many, left) for many in seen.at_most)
    return Histogram(seen.bounds, at_most, left, max(0.0, seen.total - gone * max(mean, above_s)))
