"""What would be, were a deadline, a pool, a site or a zone another: the changed problem, and what prices say of its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from batchsched.errors import InvalidValue
from batchsched.planner import prepared
from batchsched.planner.cost import assess, late_s
from batchsched.planner.due import due_times
from batchsched.planner.hastened import hastened
from batchsched.planner.plan import Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Configuration, Job, PoolState, Problem, cut
from batchsched.planner.shadow import Arrays, Shadow
from batchsched.planner.sound import sound
from batchsched.planner.verify import violations

_LEAST_S = 1.0
"""Seconds of work on the fastest pool: less of it late is rounding."""
_TRACE = 1e-4
"""Of what plans weigh: less than this is what waiting costs, and no gain."""


class Copy(msgspec.Struct, frozen=True):
    """A pool as it would be in another zone."""

    pool: str
    zone: str
    intensity_g_per_kwh: list[float | None]
    """A value a slot of the problem."""
    batches: frozenset[str] | None = None
    """Those that might run there; None: all that may run on the pool."""

    @property
    def name(self) -> str:
        """What the copy is called."""
        return f"{self.pool}@{self.zone}"


class Changes(msgspec.Struct, frozen=True):
    """What is to be another."""

    deadlines: dict[str, float] = {}
    """Seconds from the plan's origin, by batch."""
    replicas: dict[str, int] = {}
    """So many more, or fewer, by pool."""
    without: list[str] = []
    """Sites."""
    copies: list[Copy] = []


def changed(problem: Problem, changes: Changes) -> Problem:
    """The problem as it would be. Raises InvalidValue for what it does not know."""
    _known("batch", changes.deadlines, {job.batch_id for job in problem.jobs})
    _known("pool", [*changes.replicas, *(copy.pool for copy in changes.copies)], {pool.name for pool in problem.pools})
    _known("site", changes.without, {pool.site for pool in problem.pools})
    pools = [_resized(pool, changes.replicas.get(pool.name, 0)) for pool in problem.pools]
    pools = [_closed(pool) if pool.site in changes.without else pool for pool in pools]
    jobs = [msgspec.structs.replace(job, deadline_s=changes.deadlines.get(job.batch_id, job.deadline_s)) for job in problem.jobs]
    for copy in changes.copies:
        pools.append(_copied(problem.pool(copy.pool), copy))
        jobs = [_admitted(job, copy) for job in jobs]
    return msgspec.structs.replace(problem, pools=pools, jobs=jobs)


class ByPrices(msgspec.Struct, frozen=True):
    """What prices say of a change, without solving it.

    `grams`: the difference is at least so much (negative: it saves at most so much); None where more work, or less, would be
    late, which grams do not measure.
    """

    grams: float | None
    late: bool = False
    """Would more work be late?"""


def by_prices(problem: Problem, other: Problem) -> ByPrices | None:
    """The difference that a change makes by the prices of the problem before it; None where there are none.

    Engine starts and how many chunks a batch can run at once are left out of it. `other`: on the same slots.
    """
    problem, other = sound(problem)[0], sound(other)[0]
    if not all(any(job.seconds_on for job in one.jobs) for one in (problem, other)):
        return None
    before, due = prepared(problem, other)
    after, due_after = prepared(other, problem)
    first = Arrays.of(before, due)
    second = Arrays.of(after, due_after, first.prices.loss_g_per_s)
    first = Arrays.of(before, due, second.prices.loss_g_per_s)
    shadow = Shadow.cast(first)
    if shadow is None or not second.model.work.size:
        return None
    (bound_before, late_before), (bound_after, late_after) = shadow.bound_of(first), shadow.bound_of(second)
    if abs(late_after - late_before) > _LEAST_S:
        return ByPrices(None, late_after > late_before)
    return ByPrices(bound_after - bound_before)


def best(problem: Problem, own: Plan, others: Sequence[Plan]) -> Plan:
    """The best for a problem of its own plan and of others, made for problems that begin alike, where they keep its rules.

    Less late work is better, by weight, then what weighs less, not counting traces.
    """
    problem = sound(problem)[0]
    for other in others:
        found = _here(problem, other)
        if found is not None and _better(problem, found, own):
            own = msgspec.structs.replace(found, bound=None if own.bound is None else min(own.bound, found.objective))
    return own


def _better(problem: Problem, plan: Plan, than: Plan) -> bool:
    more_s = late_s(problem, plan) - late_s(problem, than)
    if abs(more_s) > _LEAST_S:
        return more_s < 0
    return plan.objective < than.objective * (1 + _TRACE)


def _here(problem: Problem, plan: Plan) -> Plan | None:
    """A plan as one of this problem; None where it breaks its rules."""
    fine = cut(problem, [slot.end_s for slot in plan.slots])
    if fine.slots[: len(plan.slots)] != plan.slots:
        return None
    due = hastened(fine, due_times(problem))
    try:
        found = assess(fine, price(fine), due, plan.allotments, plan.loads)
    except KeyError:  # a batch, or a place for it, that is not here
        return None
    return None if violations(problem, found) else msgspec.structs.replace(found, solver=plan.solver, status=plan.status)


class Late(msgspec.Struct, frozen=True):
    """Requests of a batch that are expected not to be done by the deadline."""

    batch_id: str
    requests_before: float
    requests_after: float


def late(before: Plan, after: Plan) -> list[Late]:
    """Whose lateness differs between two plans, the worst first."""
    found = [Late(name, before.late.get(name, 0.0), after.late.get(name, 0.0)) for name in sorted({*before.late, *after.late})]
    found = [one for one in found if abs(one.requests_after - one.requests_before) > 0.5]
    return sorted(found, key=lambda one: one.requests_before - one.requests_after)


def grams(plan: Plan) -> tuple[float, list[str]]:
    """Expected grams of all batches whose grams are known; and the others."""
    known = [value for value in plan.grams_expected.values() if value is not None]
    return sum(known), sorted(name for name, value in plan.grams_expected.items() if value is None)


def _known(what: str, names: Sequence[str] | Mapping[str, object], there: set[str]) -> None:
    for name in names:
        if name not in there:
            some = ", ".join(sorted(there)[:20]) or "none"
            raise InvalidValue(f"The plan in force knows no {what} '{name[:64]}'. It knows: {some}.", param=what)


def _resized(pool: PoolState, more: int) -> PoolState:
    """With more replicas, or fewer, in service whenever it is open."""
    if not more:
        return pool
    replicas = max(0, pool.replicas + more)
    most = max(pool.capacity, default=0.0)
    share = [capacity / pool.replicas if pool.replicas else float(most > 0) for capacity in pool.capacity]
    return msgspec.structs.replace(
        pool, replicas=replicas, capacity=[replicas * part for part in share], loaded=pool.loaded[:replicas]
    )


def _closed(pool: PoolState) -> PoolState:
    return msgspec.structs.replace(pool, capacity=[0.0] * len(pool.capacity))


def _copied(pool: PoolState, copy: Copy) -> PoolState:
    return msgspec.structs.replace(
        pool,
        name=copy.name,
        site=f"{pool.site}@{copy.zone}",
        zone=copy.zone,
        intensity_g_per_kwh=copy.intensity_g_per_kwh,
        loaded=[],
        simulated=True,
        home=False,
    )


def _admitted(job: Job, copy: Copy) -> Job:
    """A job that may run on the copy as it may on the pool."""
    if copy.batches is not None and job.batch_id not in copy.batches:
        return job
    there: dict[str, str] = {}  # its name for a configuration on the copy, and for that on the pool
    configs = dict(job.configurations)
    for key in job.seconds_on:
        config = job.configuration(key)
        if list(config.takes) == [copy.pool] and not config.links:
            name = copy.name if key == copy.pool else f"{key}@{copy.zone}"
            there[name] = key
            if name != copy.name:
                configs[name] = Configuration(config.model, {copy.name: config.takes[copy.pool]}, mode=config.mode)

    def with_copies(mapping: dict[str, float]) -> dict[str, float]:
        return {**mapping, **{name: mapping[key] for name, key in there.items() if key in mapping}}

    return msgspec.structs.replace(
        job,
        seconds_on=with_copies(job.seconds_on),
        power_w_on=with_copies(job.power_w_on),
        startup_s_on=with_copies(job.startup_s_on),
        idle_w_on=with_copies(job.idle_w_on),
        transfer_g_on=with_copies(job.transfer_g_on),
        load_g_on=with_copies(job.load_g_on),
        configurations=configs,
    )
