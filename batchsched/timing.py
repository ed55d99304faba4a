"""What would be in time where, by the plan in force: who may begin a chunk, who lets go of one, and who is left to the plan."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

import msgspec

from batchsched.planner import Job, Plan, PoolState, Problem, Slot
from batchsched.planner.doubt import doubts, factor
from batchsched.planner.pieces import piece_s, spread

BUSIER = 1.5
"""A chunk is begun on servers that others use too where it would be in time were it to take so many times as long."""
RELIED_ON_S = 3600.0
"""Of a plan's life: who makes plans seems to be gone where it is older."""
ROUNDS = 3
"""A batch that can wait no longer is left to the plan while so many of its chunks could still be done one after the other."""
_EPS = 1e-6


class Timing(msgspec.Struct, frozen=True, dict=True):
    """Of the batches of one plan. Shared by threads; what is worked out is kept."""

    made_at: datetime
    problem: Problem
    plan: Plan
    late: frozenset[str]
    """Batches that will be late, or that make others late: nothing is held back for these."""
    there: frozenset[str]
    """Pools with a live worker, or a launcher that can start one."""
    engineless: frozenset[str] = frozenset()
    """Of these, the ones whose engines do not start."""

    def may_begin(self, batch_id: str, pool: str, now: datetime) -> bool:
        """May a pool begin a chunk of a batch? Not where that would end too late there and in time elsewhere: what it took would
        be missing where it can be done."""
        if (job := self._jobs.get(batch_id)) is None or batch_id in self.late:
            return True
        pieces = self._pieces_s(batch_id)
        if pool not in pieces:
            return True
        left_s, starting_s = self._left_s(job, now), max(job.startup_s_on.values())

        def fits(name: str, n: int, slack_s: float = 0.0) -> bool:
            slack_s = -starting_s if self.is_shared(name) else slack_s
            return self._at_most_s(batch_id, name, n, now) - slack_s <= left_s

        # Its latest safe start leaves no more than that for engines that start late. It may cost of the confidence, but no
        # chunk is begun where it is expected to end too late.
        late = [n for n, slack_s in enumerate((0.0, starting_s)) if not fits(pool, n, slack_s)]
        open_now = self._open(now) if late else ()
        return not any(fits(name, n) for name in pieces.keys() & open_now for n in late)

    def belated(self, batch_id: str, pool: str, work_s: float, part: float, now: datetime) -> bool:
        """Should a pool that others use too let go of a chunk of a batch? Where that would end too late there, by what its other
        users are expected to leave, and in time elsewhere, where an engine may have to start. `work_s`: what is left of it, and
        of others that its worker has in hand, on a whole replica; `part`: what it is of all that the plan had of the batch."""
        if not self.is_shared(pool):
            return False
        job = self._jobs[batch_id]
        left_s, starting_s = self._left_s(job, now), max(job.startup_s_on.values())
        if self._takes_s(pool, work_s, now) <= left_s:
            return False
        elsewhere = job.work_on.keys() & self._open(now) - {pool}
        in_time_there = any(self._takes_s(name, part * job.work_on[name], now) + starting_s <= left_s for name in elsewhere)
        return in_time_there and not self.may_begin(batch_id, pool, now)  # else it would be begun here again

    def relied_on_until_s(self, batch_id: str) -> float:
        """Until when, in seconds from its origin, the plan is relied on for a batch: while it is fresh, and while a place that it
        has for it leaves time for some chunks after an engine's start; -inf where it does not have all of it so early that what
        may come on top at the asked confidence would be in time too."""
        if (known := self._relied_on_s.get(batch_id)) is None:
            known = self._relied_on_s[batch_id] = min(RELIED_ON_S, self._time_left_s(self._jobs[batch_id]))
        return known

    def _time_left_s(self, job: Job) -> float:
        name, placed = job.batch_id, self.plan.of(job.batch_id)
        due_s = self.plan.due_s.get(name, -math.inf) + _EPS
        if name in self.late or math.fsum(a.requests for a in placed if a.end_s <= due_s) < job.remaining_requests - 0.5:
            return -math.inf
        by_s = job.deadline_s - max(job.startup_s_on.values(), default=0.0)
        able = self._pieces_s(name).keys() & self.there - self.engineless
        places = [a for a in placed if a.pool in able and not a.crumb]
        until_s = [by_s - ROUNDS * self._at_most_s(name, a.pool, 1, self._at(a.start_s)) for a in places]
        found = (min(a.end_s, s) for a, s in zip(places, until_s, strict=True) if a.start_s <= s)
        return max(found, default=-math.inf)

    @cached_property
    def _relied_on_s(self) -> dict[str, float]:
        """What was worked out of `relied_on_until_s`."""
        return {}

    # -- how long things take --

    def is_shared(self, pool: str) -> bool:
        """Do others use its replicas too?"""
        return pool in self._states and bool(self._states[pool].speed)

    def _at_most_s(self, batch_id: str, pool: str, n: int, now: datetime) -> float:
        """What a batch's largest chunk takes there from then on: as expected (`n` = 0), or at most with the asked confidence. By
        far less than that on servers that others use too: what comes out too slow is taken back (belated)."""
        taken_s = self._pieces_s(batch_id)[pool]
        return BUSIER * self._takes_s(pool, taken_s[0], now) if self.is_shared(pool) else taken_s[n]

    def _takes_s(self, pool: str, work_s: float, now: datetime) -> float:
        """How long one replica takes from now on for what a whole one does in so many seconds."""
        state = self._states.get(pool)
        return state.takes_s(self.problem.slots, (now - self.made_at).total_seconds(), work_s) if state else work_s

    def _left_s(self, job: Job, now: datetime) -> float:
        """Until its deadline."""
        return job.deadline_s - (now - self.made_at).total_seconds()

    def _at(self, seconds: float) -> datetime:
        return self.made_at + timedelta(seconds=seconds)

    def _pieces_s(self, batch_id: str) -> dict[str, tuple[float, float]]:
        """What its largest chunk takes on a whole replica of each pool: as expected, and at most with the asked confidence."""
        if (known := self._pieces.get(batch_id)) is None:
            job = self._jobs[batch_id]
            supplies = {state.name: (state.supply, float(state.replicas)) for state in self.problem.pools}
            times = {pool: factor(doubt, job.confidence) for pool, doubt in doubts(job, supplies, spread(job, job.width)).items()}
            known = self._pieces[batch_id] = {pool: (s, s * times[pool]) for pool, s in piece_s(job).items()}
        return known

    @cached_property
    def _pieces(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What was worked out of `_pieces_s`."""
        return {}

    # -- who is there --

    @cached_property
    def _jobs(self) -> dict[str, Job]:
        return {job.batch_id: job for job in self.problem.jobs}

    @cached_property
    def _states(self) -> dict[str, PoolState]:
        return {state.name: state for state in self.problem.pools}

    def _open(self, now: datetime) -> frozenset[str]:
        """Pools that are there, of which a part is open now."""
        index = slot_at(self.problem.slots, (now - self.made_at).total_seconds())  # plans cut slots finer, at deadlines
        if index is None:
            return self.there
        return frozenset(state.name for state in self.problem.pools if state.name in self.there and state.capacity[index] > 0)


def slot_at(slots: Sequence[Slot], at_s: float) -> int | None:
    """The slot that is on so many seconds from the origin, the first one before that; None: all of them are over."""
    at_s = max(0.0, at_s)
    index = bisect_right(slots, at_s, key=lambda slot: slot.start_s) - 1
    return index if index >= 0 and at_s < slots[index].end_s else None
