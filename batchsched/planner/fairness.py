"""Whose turn is it? Deadlines first; where not all can be met, and between equals, tenants share engine time by weight.

A tenant's virtual time is the engine time it was served, in seconds, over its weight. Who has least of it comes next, as in
start-time fair queueing: while two tenants both have work, what they get differs from their weights by no more than a chunk each,
whatever the sizes of the chunks. Within a tenant comes first what was told to start now, then the higher priority, then the
earlier deadline.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec

from batchsched.planner.backward import Filled, Need, fill_backward
from batchsched.planner.latest_start import OpenPool, spans_of
from batchsched.planner.problem import Job

START_SHARE = 0.1
"""Of the time that a tenant is owed, an engine start for it may take this much: tenants of two models do not undo each other."""
_EPS = 1e-6


class Want(msgspec.Struct):
    """A batch that a pool may work on now."""

    batch_id: str
    tenant: str
    model: str
    deadline_s: float
    priority: int
    requests: float
    """How many it may lease; infinite once its latest safe start has come, or where it was told to start now (`pressing`)."""
    request_s: float
    """Expected engine seconds of one request."""
    startup_s: float
    due: bool
    """It can wait no longer, and its deadline can still be met."""
    at_once: bool = False
    """It was told to start now: it comes before what else its tenant has."""
    renamed: bool = False
    """Its requests name another model than the one that is to serve them."""

    @property
    def pressing(self) -> bool:
        """May it be leased whatever the plan says?"""
        return math.isinf(self.requests)


class Turns:
    """What a pool may work on, handed out one chunk after another. Not shared between threads."""

    def __init__(
        self,
        wants: Iterable[Want],
        served_s: Mapping[str, float],
        weights: Mapping[str, float],
        room_s: Mapping[str, float] | None = None,
    ) -> None:
        """`served_s`: engine seconds over weight, by tenant; a tenant without a weight has 1. `room_s`: engine seconds that the
        wants of a model may take together, those with infinite requests left out; without limit where it is not named."""
        self._room_s = dict(room_s or {})
        self._wants = list(wants)
        self._served_s = dict(served_s)
        self._weights = weights

    def pick(self, ready: Collection[str]) -> tuple[Want | None, str | None]:
        """The next work for an engine with these models; or else the model that it should load."""
        wants = self._open()
        first = self._first(wants)
        if first is None or first.model in ready:
            return first, None
        other = self._first([want for want in wants if want.model in ready])
        if other is None or self._worth_a_start(first, other):
            return None, first.model
        return other, None

    @property
    def over(self) -> bool:
        """Is there nothing to hand out?"""
        return not self._open()

    def took(self, want: Want, requests: int) -> None:
        """So many requests of it were leased: its tenant is charged what they are expected to take."""
        taken_s = requests * want.request_s
        self._served_s[want.tenant] = self._vtime(want) + taken_s / self._weight(want)
        if math.isfinite(want.requests):
            self._room_s[want.model] = self._room_s.get(want.model, math.inf) - taken_s
        want.requests -= requests
        if want.requests <= _EPS:
            self.drop(want)

    def drop(self, want: Want) -> None:
        """It has nothing left to lease."""
        self._wants.remove(want)

    def of(self, model: str) -> list[Want]:
        """What there is to hand out that is to be served with a model, in the order of its turns as they are now."""
        mine = [want for want in self._open() if want.model == model]
        due = sorted((want for want in mine if want.due), key=lambda want: (want.deadline_s, want.batch_id))
        return due + sorted((want for want in mine if not want.due), key=self._rank)

    def leave(self, model: str) -> None:
        """What is to be served with that model is for other engines."""
        self._wants = [want for want in self._wants if want.model != model]

    def _open(self) -> list[Want]:
        return [want for want in self._wants if math.isinf(want.requests) or self._room_s.get(want.model, math.inf) > _EPS]

    def _first(self, wants: list[Want]) -> Want | None:
        due = [want for want in wants if want.due]
        if due:
            return min(due, key=lambda want: (want.deadline_s, want.batch_id))
        return min(wants, key=self._rank, default=None)

    def _rank(self, want: Want) -> tuple[float, str, bool, int, float, str]:
        return self._vtime(want), want.tenant, not want.at_once, -want.priority, want.deadline_s, want.batch_id

    def _worth_a_start(self, want: Want, other: Want) -> bool:
        """Should the engine give up a model that has work (`other`) for one that it has to load first?"""
        if want.due or math.isfinite(want.requests):  # what is only planned, the planner counted the start for
            return want.due
        owed_s = (self._vtime(other) - self._vtime(want)) * self._weight(want)
        return want.tenant == other.tenant or owed_s * START_SHARE > want.startup_s

    def _vtime(self, want: Want) -> float:
        return self._served_s.get(want.tenant, 0.0)

    def _weight(self, want: Want) -> float:
        return self._weights.get(want.tenant, 1.0)


def arrivals(served_s: Mapping[str, float], before: Collection[str], now: Collection[str]) -> dict[str, float]:
    """Where tenants begin that have work again (in `now`, not in `before`): no lower than the least served of those that had
    work all along, so that nobody saves up turns; where there are none, all begin level."""
    stayed = [served_s.get(tenant, 0.0) for tenant in now if tenant in before]
    floor = min(stayed) if stayed else max(served_s.values(), default=0.0)
    return {tenant: max(floor, served_s.get(tenant, 0.0)) for tenant in now if tenant not in before}


def contested(jobs: Iterable[Job], pools: list[OpenPool]) -> set[str]:
    """Jobs whose deadlines are out of reach, or not within reach of all of them together, even if all goes as expected.

    The first are told by looking at each alone. Of the rest, it is all that falls due while the pools are busy without a gap:
    which of them will be late is then a matter of order, not of need.
    """
    needs = {
        job.batch_id: Need(job.batch_id, job.deadline_s, job.work_on, job.width)
        for job in jobs
        if job.seconds_on and job.remaining_requests > 0
    }
    ahead = [OpenPool(p.name, p.replicas, [(max(0.0, start), end) for start, end in p.intervals if end > 0]) for p in pools]
    late = _late(_filled(list(needs.values()), ahead))
    if not late:
        return set()
    hopeless = {name for name in late if _late(_filled([needs[name]], ahead))}
    rest = [need for name, need in needs.items() if name not in hopeless]
    filled = _filled(rest, ahead)
    found = set(hopeless)
    for group in {frozenset(needs[name].work_on) for name in _late(filled)}:
        busy_s = filled.busy_until(0.0, group)
        found |= {need.batch_id for need in rest if need.deadline_s <= busy_s + _EPS and group & need.work_on.keys()}
    return found


def _filled(needs: list[Need], pools: list[OpenPool]) -> Filled:
    return fill_backward(needs, spans_of(pools))


def _late(filled: Filled) -> set[str]:
    return {name for name, start_s in filled.starts.items() if start_s < -_EPS}
