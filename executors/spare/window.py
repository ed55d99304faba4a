"""What happened at a server between two readings, ours and the online users' told apart."""

from __future__ import annotations

import msgspec

from batchsched.executors.spare.counts import Counts
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.response import Step

_FEW_TOKENS = 5


class Ours(msgspec.Struct, frozen=True):
    """What the offline side knows of itself, all workers of the server together."""

    in_flight: int = 0
    sent: int = 0
    """Requests since the beginning, as all that follows."""
    sent_tokens: int = 0
    """Of their prompts."""
    slow_first: int = 0
    """Of these, those whose prompts are so long that their own first token comes later than the online users' goal."""


class Window(msgspec.Struct, frozen=True):
    """The time between two readings of one life of a server."""

    at_s: float
    seconds: float
    online: float
    """Requests of online users at the server at its end, waiting ones included."""
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


def between(earlier: Counts, later: Counts, ours_then: Ours, ours_now: Ours, slow_above_s: float) -> Window:
    """The window between two readings of one life (`later.follows(earlier)`). `slow_above_s`: the goal for first tokens."""
    seconds = later.at_s - earlier.at_s
    there = later.running + later.waiting
    sent = ours_now.sent - ours_then.sent
    came = there - earlier.running - earlier.waiting + later.finished - earlier.finished
    each = later.each_token.since(earlier.each_token)
    step = _step(earlier, later, each, seconds)
    read = max(1.0, later.prompt_tokens - earlier.prompt_tokens)
    our_part = min(1.0, (ours_now.sent_tokens - ours_then.sent_tokens) / read)
    return Window(
        at_s=later.at_s,
        seconds=seconds,
        online=max(0.0, there - ours_now.in_flight),
        arrived=max(0.0, came - sent),
        ours=(ours_then.in_flight + ours_now.in_flight) / 2,
        served=later.running,
        waiting=later.waiting,
        preempted=later.preemptions - earlier.preemptions,
        kv_used=later.kv_used,
        step=step,
        our_prompt_tokens=our_part * step.prompt_tokens if step else 0.0,
        first_token=_without_slow(
            later.first_token.since(earlier.first_token), ours_now.slow_first - ours_then.slow_first, slow_above_s
        ),
    )


def _step(earlier: Counts, later: Counts, each: Histogram, seconds: float) -> Step | None:
    if each.count < _FEW_TOKENS or each.mean is None:
        return None
    if later.steps is not None and earlier.steps is not None and later.steps > earlier.steps:
        steps = later.steps - earlier.steps
    else:
        steps = max(1.0, seconds / each.mean)
    computed = max(0.0, later.prompt_tokens - earlier.prompt_tokens - (later.cached_tokens - earlier.cached_tokens))
    return Step(each.mean, each.count / steps, computed / steps)


def _without_slow(seen: Histogram, slow: int, above_s: float) -> Histogram:
    """Without that many of those above: they are ours, and known to be slow."""
    if not slow or not seen.count:
        return seen
    gone = min(float(slow), seen.above(above_s))
    left = seen.count - gone
    mean = (seen.total / seen.count) if seen.count else 0.0
    at_most = tuple(min(many, left) for many in seen.at_most)
    return Histogram(seen.bounds, at_most, left, max(0.0, seen.total - gone * max(mean, above_s)))
