"""What would be in time where, by the plan in force: who may begin a chunk, who lets go of one, and what is left to the plan."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

import msgspec

from batchsched.planner import Job, Plan, PoolState, Problem, Slot
from batchsched.planner.doubt import doubts, factor
from batchsched.planner.pieces import piece_s, spread
from batchsched.planner.problem import Supply

BUSIER = 1.5
"""A chunk is begun on servers that others use too where it would be in time were it to take so many times as long."""
RELIED_ON_S = 3600.0
"""Of a plan's life: who makes plans seems to be gone where it is older."""
ROUNDS = 3
"""A batch that can wait no longer is left to the plan while so many of its chunks could still be done one after the other."""
_EPS = 1e-6


class Timing(msgspec.Struct, frozen=True, dict=True):
    """Of the batches of one plan; instants are seconds from its origin. Shared by threads; what is worked out is kept."""

    problem: Problem
    plan: Plan
    jobs: dict[str, Job]
    """Of the problem, by batch."""
    late: frozenset[str]
    """Batches that may be late, or make others late, whatever is done: nothing is held back for these."""
    there: frozenset[str]
    """Pools with a live worker, or a launcher that can start one."""
    engineless: frozenset[str] = frozenset()
    """Of these, the ones whose engines do not start."""

    def may_begin(self, batch_id: str, pool: str, now_s: float) -> bool:
        """May a pool begin a chunk of a batch? Not where that would end too late there and in time elsewhere: what it took would
        be missing where it can be done."""
        if (job := self.jobs.get(batch_id)) is None or batch_id in self.late:
            return True
        pieces = self._pieces_s(batch_id)
        if pool not in pieces:
            return True
        left_s, starting_s = job.deadline_s - now_s, max(job.startup_s_on.values())

        def fits(name: str, n: int, slack_s: float = 0.0) -> bool:
            slack_s = -starting_s if self._is_shared(name) else slack_s
            return self._at_most_s(batch_id, name, n, now_s) - slack_s <= left_s

        # Its latest safe start leaves no more than that for engines that start late. It may cost of the confidence, but no
        # chunk is begun where it is expected to end too late.
        late = [n for n, slack_s in enumerate((0.0, starting_s)) if not fits(pool, n, slack_s)]
        open_now = self._open(now_s) if late else ()
        return not any(fits(name, n) for name in pieces.keys() & open_now for n in late)

    def belated(self, batch_id: str, pool: str, work_s: float, part: float, now_s: float) -> bool:
        """Should a pool that others use too let go of a chunk of a batch? Where that would end too late there, by what its other
        users are expected to leave, and in time elsewhere, where an engine may have to start. `work_s`: what is left of it, and
        of others that its worker has in hand, on a whole replica; `part`: what it is of all that the plan had of the batch."""
        if not self._is_shared(pool):
            return False
        job = self.jobs[batch_id]
        left_s, starting_s = job.deadline_s - now_s, max(job.startup_s_on.values())
        if self._takes_s(pool, work_s, now_s) <= left_s:
            return False
        elsewhere = job.work_on.keys() & self._open(now_s) - {pool}
        in_time_there = any(self._takes_s(name, part * job.work_on[name], now_s) + starting_s <= left_s for name in elsewhere)
        return in_time_there and not self.may_begin(batch_id, pool, now_s)  # else it would be begun here again

    def relied_on_until_s(self, batch_id: str) -> float:
        """Until when the plan is relied on for a batch: while it is fresh, and while a place that it has for it leaves time for
        some chunks after an engine's start; -inf where it does not have all of it so early that what may come on top at the
        asked confidence would be in time too."""
        if (known := self._relied_on_s.get(batch_id)) is None:
            known = self._relied_on_s[batch_id] = min(RELIED_ON_S, self._time_left_s(self.jobs[batch_id]))
        return known

    def _time_left_s(self, job: Job) -> float:
        name, due_s = job.batch_id, self.plan.due_s.get(job.batch_id, -math.inf) + _EPS
        early = [a for a in self.plan.of(name) if a.end_s <= due_s]
        beyond = job.deadline_s > self.problem.end_s  # then due times leave room for nothing
        if name in self.late or beyond or math.fsum(a.requests for a in early) < job.remaining_requests - 0.5:
            return -math.inf
        by_s = job.deadline_s - max(job.startup_s_on.values(), default=0.0)
        able = self._pieces_s(name).keys() & self.there - self.engineless
        places = [a for a in early if a.pool in able and not a.crumb]
        until_s = [by_s - ROUNDS * self._at_most_s(name, a.pool, 1, a.start_s) for a in places]
        return max((min(a.end_s, s) for a, s in zip(places, until_s, strict=True) if a.start_s <= s), default=-math.inf)

    @cached_property
    def _relied_on_s(self) -> dict[str, float]:
        """What was worked out of `relied_on_until_s`."""
        return {}

    # -- how long things take --

    def _is_shared(self, pool: str) -> bool:
        """Do others use its replicas too?"""
        return pool in self._states and bool(self._states[pool].speed)

    def _at_most_s(self, batch_id: str, pool: str, n: int, from_s: float) -> float:
        """What a batch's largest chunk takes there from then on: as expected (`n` = 0), or at most with the asked confidence. By
        far less than that on servers that others use too: what comes out too slow is taken back (belated)."""
        taken_s = self._pieces_s(batch_id)[pool]
        return BUSIER * self._takes_s(pool, taken_s[0], from_s) if self._is_shared(pool) else taken_s[n]

    def _takes_s(self, pool: str, work_s: float, from_s: float) -> float:
        """How long one replica takes from then on for what a whole one does in so many seconds."""
        state = self._states.get(pool)
        return state.takes_s(self.problem.slots, from_s, work_s) if state else work_s

    def _pieces_s(self, batch_id: str) -> dict[str, tuple[float, float]]:
        """What its largest chunk takes on a whole replica of each pool: as expected, and at most with the asked confidence."""
        if (known := self._pieces.get(batch_id)) is None:
            job = self.jobs[batch_id]
            doubted = doubts(job, self._supplies, spread(job, job.width))
            times = {pool: factor(doubt, job.confidence) for pool, doubt in doubted.items()}
            known = self._pieces[batch_id] = {pool: (s, s * times[pool]) for pool, s in piece_s(job).items()}
        return known

    @cached_property
    def _pieces(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What was worked out of `_pieces_s`."""
        return {}

    # -- who is there --

    @cached_property
    def _states(self) -> dict[str, PoolState]:
        return {state.name: state for state in self.problem.pools}

    @cached_property
    def _supplies(self) -> dict[str, tuple[Supply, float]]:
        return {state.name: (state.supply, float(state.replicas)) for state in self.problem.pools}

    def _open(self, now_s: float) -> frozenset[str]:
        """Pools that are there, of which a part is open now."""
        index = slot_at(self.problem.slots, now_s)  # plans cut slots finer, at deadlines
        if index is None:
            return self.there
        return frozenset(state.name for state in self.problem.pools if state.name in self.there and state.capacity[index] > 0)


def slot_at(slots: Sequence[Slot], at_s: float) -> int | None:
    """The slot that is on so many seconds from the origin, the first one before that; None: all of them are over."""
    at_s = max(0.0, at_s)
    index = bisect_right(slots, at_s, key=lambda slot: slot.start_s) - 1
    return index if index >= 0 and at_s < slots[index].end_s else None
