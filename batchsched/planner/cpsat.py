"""The class model of the assignment problem, solved by CP-SAT.

Variables, for class c, configuration k, slot t, all integers:
  x[c,k,t]  work units (a small number of replica-seconds) of the class done there
  l[k,t]  replicas that begin to start in the slot; y[k,t] replicas that are kept ready when the slot ends
  missing work at each mark of a class (classes.Mark)
Rows: capacity of each pool, link and slot in units, start-up time included (a start longer than a slot goes on in the next); work
only on replicas that are ready; at most the pool's replicas are kept ready; at each mark, work done plus work missing covers what
is due. Cost: grams of work, of loading and of replicas that wait (holding.py), a trace for waiting, lateness. Two models may
share a replica's slot in time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from batchsched.planner.classes import WorkClass, classes
from batchsched.planner.cost import late_s
from batchsched.planner.disaggregate import disaggregate
from batchsched.planner.engines import hold_room, load_share
from batchsched.planner.hint import Engine, FleetHint, Key, walk
from batchsched.planner.last import standing_work
from batchsched.planner.plan import Plan, called
from batchsched.planner.price import Prices, price, work_s
from batchsched.planner.problem import Configuration, Problem

MOST_VARIABLES = 10_000
"""Above this the fleet's solver plans: on drawn problems of 16,000 to 36,000 variables, with the same work, it came out 5 to 8 %
lower than CP-SAT where either beat greedy; below 6,000 CP-SAT was mostly as good, and proved it."""
FLEET_WORK = 5_000
"""Simplex steps of the fleet's solver for each second of work."""
UNITS_PER_SLOT = 1000
SPEED_STEPS = 1000
"""Speeds relative to a class's fastest configuration are rounded down to this many steps."""
COST_STEPS = 10**6
"""The dearest unit of work costs this many integer steps, or fewer where sums would grow too large."""
LARGEST_SUM = 2**52
GAP = 1e-3
"""Close enough to the bound to stop."""

STEADY_SHARE = 0.2
"""CP-SAT's deterministic seconds for each second of work: about what an idle core does in it."""
CUT_SHORT = "The clock ended the search before its work was done: made again, this plan may come out otherwise"
PARTS = 1000
"""A configuration that takes a part of a replica, or some of a link, takes whole numbers of so many parts, rounded up."""


def improve(
    problem: Problem, due: dict[str, float], start: Plan, *, work_s: float = 2.0, seed: int = 0, wall_s: float = math.inf
) -> Plan:
    """The better of `start` and what CP-SAT finds from it; where there is too much for it, what the fleet's solver finds.

    `problem`: with slots cut at the due times, as `start` has them.
    """
    groups = classes(problem, due)
    if not groups:
        return start
    if too_large(problem, groups):
        return _by_fleet(problem, due, groups, start, int(work_s * FLEET_WORK), seed, wall_s)
    model = ClassModel(problem, groups, price(problem))
    start = model.warm(due, start)
    status, work, starts, bound = model.solve(work_s, seed, wall_s)
    start = _kept(start, CUT_SHORT) if model.cut_short else start
    if status not in {"OPTIMAL", "FEASIBLE"}:
        return _kept(start, f"CP-SAT found no plan with {work_s:g} s of work ({status}): greedy plan")
    found = disaggregate(problem, due, groups, work, starts)
    if found.objective > start.objective:
        return msgspec.structs.replace(
            start, bound=min(bound, start.objective), notes=[*start.notes, f"CP-SAT found nothing better than {called(start)}"]
        )
    return msgspec.structs.replace(
        found, bound=min(bound, found.objective), solver="cp-sat", status=status.lower(), notes=start.notes
    )


def too_large(problem: Problem, groups: list[WorkClass]) -> bool:
    """Is it one for the fleet's solver?"""
    return 3 * sum(len(group.ratio) for group in groups) * len(problem.slots) > MOST_VARIABLES


def _by_fleet(
    problem: Problem, due: dict[str, float], groups: list[WorkClass], start: Plan, work: int, seed: int, wall_s: float
) -> Plan:
    from batchsched.planner.fleet_problem import fleet_plan

    found = fleet_plan(problem, due, groups, work, seed, start, wall_s)
    if found is None or found.objective > start.objective or late_s(problem, found) > late_s(problem, start) + 1e-6:
        start = msgspec.structs.replace(
            start, bound=min(found.bound, start.objective) if found and found.bound is not None else None
        )
        return _kept(start, f"The fleet's solver found nothing better than {called(start)}")
    return found


def _kept(plan: Plan, note: str) -> Plan:
    return msgspec.structs.replace(plan, notes=[*plan.notes, note])


class ClassModel:
    """The model while it is built, hinted and solved."""

    def __init__(self, problem: Problem, groups: list[WorkClass], prices: Prices) -> None:
        from ortools.sat.python import cp_model

        self.problem = problem
        self._lengths = [slot.length_s for slot in problem.slots]
        self.groups = groups
        self.prices = prices
        self.model: Any = cp_model.CpModel()
        self.unit_s = _unit_s(problem, groups)
        self._pools = {pool.name: pool for pool in problem.pools}
        self._capacity = problem.capacity
        self._configs = configurations(groups)
        self._scale = {name: self._scale_of(name) for name in self._capacity}
        self._users = users(groups, self._configs)
        self._number = {config.name: k for k, config in enumerate(self._configs)}
        self._takes = [[(name, self._parts(name, n)) for name, n in config.shares] for config in self._configs]
        self._gram: dict[Key, float] = {}
        self._cost: list[tuple[Any, float, int]] = []  # variable, grams a step, upper bound
        self.x: dict[Key, Any] = {}
        self.loads: dict[Engine, Any] = {}
        self.held: dict[Engine, Any] = {}
        self.idle: dict[Engine, Any] = {}
        self._loading: dict[Engine, list[tuple[Any, int]]] = defaultdict(list)
        self._startup: dict[int, float] = {}
        self._missing: list[tuple[int, Any, int, int, int, bool]] = []  # class, variable, most, slots, asked, lost
        for c in range(len(groups)):
            self._add_work(c)
        for k in range(len(self._configs)):
            self._add_loads(k)
        self._add_capacity()
        for group_index in range(len(groups)):
            self._add_marks(group_index)
        self.scale = self._minimize()
        self.cut_short = False

    def solve(
        self, work_s: float, seed: int, wall_s: float = math.inf
    ) -> tuple[str, dict[Key, float], dict[tuple[str, int], int], float]:
        """Status; seconds of work; engine starts by the configuration's name and slot; bound in grams."""
        from ortools.sat.python import cp_model

        solver: Any = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = wall_s
        solver.parameters.max_deterministic_time = work_s * STEADY_SHARE
        solver.parameters.random_seed = seed
        solver.parameters.num_workers = 1
        solver.parameters.relative_gap_limit = GAP
        status: str = solver.status_name(solver.solve(self.model))
        self.cut_short = status != "OPTIMAL" and solver.wall_time >= wall_s
        if status not in {"OPTIMAL", "FEASIBLE"}:
            return status, {}, {}, 0.0
        work = {key: solver.value(x) * self.unit_s for key, x in self.x.items() if solver.value(x)}
        starts = {
            (self._configs[k].name, t): int(solver.value(load)) for (k, t), load in self.loads.items() if solver.value(load)
        }
        return status, work, starts, solver.best_objective_bound / self.scale

    def warm(self, due: dict[str, float], start: Plan) -> Plan:
        """Start the search from the better of `start` and of what stood, made to fit; which it is."""
        if self.problem.standing:
            seconds = self._by_class(standing_work(self.problem))
            work, starts, _ = self._walked(seconds)[0]
            kept = disaggregate(
                self.problem,
                due,
                self.groups,
                {key: units * self.unit_s for key, units in work.items()},
                {(self._configs[k].name, t): begun for (k, t), begun in starts.items()},
            )
            if kept.objective < start.objective:
                start = msgspec.structs.replace(kept, solver="standing", notes=start.notes)
        self.hint(start)
        return start

    def _by_class(self, work: Mapping[tuple[str, str, int], float]) -> dict[Key, float]:
        """Seconds of work by class, from those by job."""
        index = {job.batch_id: c for c, group in enumerate(self.groups) for job in group.jobs}
        seconds: dict[Key, float] = defaultdict(float)
        for (job, key, t), s in work.items():
            if job in index:
                seconds[index[job], key, t] += s
        return seconds

    def hint(self, plan: Plan) -> None:
        """Start the search from a plan in the same slots: every variable gets a value, and together they are feasible."""
        seconds: dict[tuple[str, str, int], float] = defaultdict(float)
        for a in plan.allotments:
            seconds[a.batch_id, a.key, a.slot_index] += a.seconds
        (work, starts, held), state = self._walked(self._by_class(seconds))
        if self.idle:
            self._hint_idle(work, starts, held)
        for table, values in ((self.loads, starts), (self.held, held)):
            for engine, variable in table.items():
                self.model.add_hint(variable, values.get(engine, 0))
        self._hint_missing(work, state)
        for key, x in self.x.items():
            self.model.add_hint(x, work.get(key, 0))

    def _hint_idle(self, work: Mapping[Key, int], starts: Mapping[Engine, int], held: dict[Engine, int]) -> None:
        """Hold no more than later work needs, and say how long that waits."""
        busy: dict[Engine, int] = defaultdict(int)
        for (c, key, t), units in work.items():
            busy[self._number[self.groups[c].configs[key].name], t] += units
        for (k, slot), begun in starts.items():
            for t, units in self._load_units(k, slot):
                busy[k, t] += begun * units
        for k in range(len(self._configs)):
            kept = 0
            for t in reversed(range(len(self.problem.slots))):
                length, begun = self._units(1, t), starts.get((k, t), 0)
                held[k, t] = kept
                if (k, t) in self.idle:
                    self.model.add_hint(self.idle[k, t], max(0, (kept - begun) * length - busy[k, t]))
                kept = max(0, math.ceil(busy[k, t] / length) - begun if length else 0, kept - begun)

    def _walked(
        self, seconds: Mapping[Key, float]
    ) -> tuple[tuple[dict[Key, int], dict[Engine, int], dict[Engine, int]], FleetHint]:
        """As much of that work as fits, in units, with the starts that it takes and what is held; and what is left free."""
        wanted = {key: math.ceil(s / self.unit_s - 1e-6) for key, s in seconds.items() if key in self.x}
        state = FleetHint(
            self._takes,
            {name: self._places(name) for name in self._pools},
            {k: self.problem.ready(config) for k, config in enumerate(self._configs)},
            {(name, t): self._room(name, t) for name in self._capacity for t in range(len(self.problem.slots))},
        )
        lengths = [self._units(1, t) for t in range(len(self.problem.slots))]
        return walk(state, lengths, wanted, self._users, self._may_load, self._load_units), state

    def _refill(self, c: int, slots: int, short: int, work: dict[Key, int], state: FleetHint) -> int:
        """Put work that is missing at a mark where it needs no further engine start, cheapest first; what is still missing."""
        number = {key: self._number[config.name] for key, config in self.groups[c].configs.items()}
        mine = [key for key in self.x if key[0] == c and key[2] < slots and state.free(number[key[1]], key[2]) > 0]
        for key in sorted(mine, key=lambda k: (self._gram[k] / self._speed(c, k[1]), k[2], k[1])):
            speed, k = self._speed(c, key[1]), number[key[1]]
            take = min(state.free(k, key[2]), math.ceil(short / speed), self._most(c, key[1], key[2]) - work.get(key, 0))
            if take > 0:
                state.take(k, key[2], take)
                work[key] = work.get(key, 0) + take
                short -= take * speed
            if short <= 0:
                break
        return short

    def _hint_missing(self, work: dict[Key, int], state: FleetHint) -> None:
        given_up: dict[int, int] = defaultdict(int)
        for c, missing, most, slots, asked, lost in self._missing:
            done = sum(self._speed(c, key[1]) * units for key, units in work.items() if key[0] == c and key[2] < slots)
            value = max(0, asked - done - given_up[c])
            if value:
                value = max(0, self._refill(c, slots, value, work, state))
            if lost:
                value = min(value, most)
                given_up[c] += value
            self.model.add_hint(missing, value)

    def _may_load(self, k: int, slot: int) -> int:
        return self._fit(k) if (k, slot) in self.loads else 0

    def _load_units(self, k: int, slot: int) -> list[tuple[int, int]]:
        shares = load_share(self._lengths, slot, self._startup[k])
        return [(t, min(math.ceil(seconds / self.unit_s - 1e-9), self._units(1, t))) for t, seconds in shares]

    def _scale_of(self, name: str) -> int:
        """Parts of one replica of a pool, or of one of a link."""
        taken = [n for config in self._configs for on, n in config.shares if on == name]
        return 1 if all(n == int(n) for n in taken) else PARTS

    def _parts(self, name: str, taken: float) -> int:
        return math.ceil(taken * self._scale[name] - 1e-9)

    def _room(self, name: str, slot: int) -> int:
        """Of a pool or a link in a slot, in parts of units."""
        return self._units(self._capacity[name][slot] * self._scale[name], slot)

    def _places(self, pool: str) -> int:
        """What may be kept ready on a pool, in parts of replicas."""
        mine = [(k, n) for k, taken in enumerate(self._takes) for name, n in taken if name == pool]
        loaded = sum(n * self.problem.ready(self._configs[k]) for k, n in mine)
        return max(hold_room(self._pools[pool]) * self._scale[pool], loaded)

    def _fit(self, k: int) -> int:
        """Most replicas of a configuration that may be ready at once."""
        return min(self._places(name) // n for name, n in self._takes[k] if name in self._pools)

    def _speed(self, c: int, key: str) -> int:
        return max(1, math.floor(1e-9 + SPEED_STEPS / self.groups[c].ratio[key]))

    def _units(self, replicas: float, slot: int) -> int:
        """Of whole replicas, each rounded down by itself: a start that fills a slot then leaves nothing of its replica."""
        part, whole = math.modf(replicas)
        units = self._lengths[slot] / self.unit_s
        return int(whole) * math.floor(units + 1e-9) + math.floor(part * units + 1e-9)

    def _open(self, config: Configuration, slot: int) -> float:
        """Replicas of a configuration that have room in a slot, were it alone there."""
        return min(self._capacity[name][slot] / taken for name, taken in config.shares)

    def _most(self, c: int, key: str, slot: int) -> int:
        group = self.groups[c]
        return self._units(min(self._open(group.configs[key], slot), group.width), slot)

    def _add_work(self, c: int) -> None:
        group = self.groups[c]
        last = max(mark.slots for mark in group.marks)
        for key, config in group.configs.items():
            for t in range(last):
                most = self._most(c, key, t)
                if most > 0:
                    x = self.x[c, key, t] = self.model.new_int_var(0, most, "")
                    gram = self.prices.replica_g(config, group.power_w[key], t) + self.prices.wait_g_per_s[t]
                    gram += group.transfer_g_per_s[key]
                    self._gram[c, key, t] = gram
                    self._cost.append((x, gram * self.unit_s, most))

    def _add_loads(self, k: int) -> None:
        """Starts of a configuration, and its replicas that are kept ready."""
        config, users = self._configs[k], self._users[k]
        startup = self._startup[k] = max(self.groups[c].startup_s[key] for c, key in users)
        power = max(self.groups[c].power_w[key] for c, key in users)
        idle_w = max(self.groups[c].idle_w[key] for c, key in users)
        moved = max(self.groups[c].load_g[key] for c, key in users)
        held: Any = self.problem.ready(config)
        for t in range(len(self.problem.slots)):
            ready: Any = held
            if self._units(self._open(config, t), t) > 0:
                load = self.loads[k, t] = self.model.new_int_var(0, self._fit(k), "")
                ready = held + load
                self._spread_load(k, t, startup, power, moved)
            work = [self.x[c, key, t] for c, key in users if (c, key, t) in self.x]
            if work:
                busy = [v * units for v, units in self._loading[k, t]]
                self.model.add(sum(work) + sum(busy) <= ready * self._units(1, t))
            after = self.held[k, t] = self.model.new_int_var(0, self._fit(k), "")
            self.model.add(after <= ready)
            if idle_w > 0:
                self._add_idle(k, t, idle_w, work)
            held = after

    def _add_idle(self, k: int, slot: int, idle_w: float, work: list[Any]) -> None:
        """Units for which replicas wait that were ready before a slot and stay until its end."""
        length = self._units(1, slot)
        idle = self.idle[k, slot] = self.model.new_int_var(0, self._fit(k) * length, "")
        busy = sum(work) + sum(v * units for v, units in self._loading[k, slot])
        self.model.add(idle >= (self.held[k, slot] - self.loads.get((k, slot), 0)) * length - busy)
        gram = self.prices.idle_g(self._configs[k], idle_w, slot) * self.unit_s
        self._cost.append((idle, gram, self._fit(k) * length))

    def _spread_load(self, k: int, slot: int, startup_s: float, power_w: float, grams: float) -> None:
        """A start takes time from its slot and, where it is longer, from the following ones; `grams`: what it weighs besides."""
        load = self.loads[k, slot]
        for t, units in self._load_units(k, slot):
            self._loading[k, t].append((load, units))
        for t, seconds in load_share(self._lengths, slot, startup_s):
            grams += seconds * (self.prices.replica_g(self._configs[k], power_w, t) + self.prices.wait_g_per_s[t])
        self._cost.append((load, grams, self._fit(k)))

    def _add_capacity(self) -> None:
        for name in self._capacity:
            mine = [(k, n) for k, taken in enumerate(self._takes) for on, n in taken if on == name]
            for t in range(len(self.problem.slots)):
                work = [n * self.x[c, key, t] for k, n in mine for c, key in self._users[k] if (c, key, t) in self.x]
                loading = [n * v * units for k, n in mine for v, units in self._loading.get((k, t), [])]
                if work or loading:
                    self.model.add(sum(work) + sum(loading) <= self._room(name, t))
                if name in self._pools and len(mine) > 1:
                    self.model.add(sum(n * self.held[k, t] for k, n in mine) <= self._places(name))

    def _add_marks(self, c: int) -> None:
        """At each mark, work done and work missing cover what is due; what was given up at an earlier mark is not asked again."""
        group = self.groups[c]
        given_up: list[Any] = []
        for mark in sorted(group.marks, key=lambda k: (k.slots, not k.lost)):
            asked = math.ceil(mark.work_s / self.unit_s * SPEED_STEPS - 1e-6)
            most = math.ceil(mark.own_s / self.unit_s * SPEED_STEPS - 1e-6) if mark.lost else asked
            missing = self.model.new_int_var(0, most, "")
            self._missing.append((c, missing, most, mark.slots, asked, mark.lost))
            self._cost.append((missing, self.prices.loss_g_per_s * group.weight * mark.share * self.unit_s / SPEED_STEPS, most))
            if mark.lost:
                given_up.append(missing)
            owed = given_up if mark.lost else [*given_up, missing]
            done = [self._speed(c, key) * x for (owner, key, t), x in self.x.items() if owner == c and t < mark.slots]
            self.model.add(sum(done) + sum(owed) >= asked)

    def _minimize(self) -> float:
        """Set the objective in integer steps; returns steps a gram. No sum can overflow: the largest possible one is bounded."""
        dearest = max((g for _, g, _ in self._cost[: len(self.x)]), default=0.0) or 1.0
        largest = sum(g * most for _, g, most in self._cost) or 1.0
        scale = min(COST_STEPS / dearest, LARGEST_SUM / 2 / largest)
        steps = [(v, max(1, round(g * scale)) if g > 0 else 0, most) for v, g, most in self._cost]
        assert sum(cost * most for _, cost, most in steps) < 2**53, "the objective could overflow"
        self.model.minimize(sum(cost * v for v, cost, _ in steps))
        return scale


def configurations(groups: list[WorkClass]) -> list[Configuration]:
    """All that classes may be served by, each once, in order of their names."""
    found = {config.name: config for group in groups for config in group.configs.values()}
    return [found[name] for name in sorted(found)]


def users(groups: list[WorkClass], configs: list[Configuration]) -> dict[int, list[tuple[int, str]]]:
    """Of each configuration the classes that it may serve, with their names for it."""
    number = {config.name: k for k, config in enumerate(configs)}
    found: dict[int, list[tuple[int, str]]] = {k: [] for k in range(len(configs))}
    for c, group in enumerate(groups):
        for key, config in group.configs.items():
            found[number[config.name]].append((c, key))
    return found


def _unit_s(problem: Problem, groups: list[WorkClass]) -> float:
    """Seconds of a work unit: a thousandth of the usual slot, finer for small jobs, coarser where there is very much work."""
    lengths = sorted(slot.length_s for slot in problem.slots)
    smallest = min(work_s(job) for group in groups for job in group.jobs)
    total = sum(group.work_s for group in groups)
    fine = max(min(lengths[len(lengths) // 2] / UNITS_PER_SLOT, smallest / 500), total / 10**7, 0.001)
    decade = 10.0 ** math.floor(math.log10(fine))
    return max(decade * step for step in (1, 2, 5) if decade * step <= fine * (1 + 1e-9))  # whole seconds are whole units
