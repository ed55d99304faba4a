"""Short runs: an engine that starts and is let go again before `min_run_s` has passed, so that a plan flaps.

Their work goes to replicas that run anyway, where these have time for it before it is due. What that may weigh more is what the
start weighs, and idling until the run would be long enough; otherwise the run stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import msgspec

from batchsched.planner.cost import assess
from batchsched.planner.engines import Engines
from batchsched.planner.greedy import Filler, allot
from batchsched.planner.plan import Load, Plan
from batchsched.planner.price import price
from batchsched.planner.problem import Configuration, Job, Problem

MOST_TRIED = 2000
"""Runs that are looked at in a plan; about a second."""
_NO_BETTER = ": their work has no better place."
_EPS = 1e-6


class Run(NamedTuple):
    """So many replicas that start in one slot and are let go in another."""

    first: int
    last: int
    replicas: int


class _Piece(NamedTuple):
    """Seconds of a job in a configuration, by its name for that, and a slot."""

    job: Job
    key: str
    slot: int
    seconds: float


def merged(problem: Problem, due: dict[str, float], plan: Plan) -> Plan:
    """The plan with as few short runs as can be, no batch later for it; a note says how many are left. `problem`: in the plan's
    slots."""
    if problem.min_run_s <= 0 or not plan.loads:
        return plan
    merger = _Merger(problem, due, plan)
    while merger.merge():  # what moved made other runs longer, or shorter
        pass
    left = sum(run.replicas for _, run in merger.short())
    best = merger.plan() if merger.moved else plan
    notes = [note for note in plan.notes if not note.endswith(_NO_BETTER)]
    if left:
        notes.append(f"{left} engine starts last less than {problem.min_run_s:g} s{_NO_BETTER}")
    bound = None if plan.bound is None else min(plan.bound, best.objective)
    return msgspec.structs.replace(best, solver=plan.solver, status=plan.status, notes=notes, bound=bound)


def short_runs(engines: Engines, lengths: list[float], min_run_s: float) -> list[Run]:
    """What starts last is let go first. What goes on until the horizon's end is not short."""
    stack: list[tuple[int, int]] = []
    found: list[Run] = []
    for t in range(len(lengths) - 1):
        if engines.starts[t]:
            stack.append((t, engines.starts[t]))
        let_go = engines.ready(t) - engines.held[t]
        while let_go > 0 and stack:
            first, replicas = stack.pop()
            count = min(replicas, let_go)
            let_go -= count
            if sum(lengths[first : t + 1]) < min_run_s - _EPS:
                found.append(Run(first, t, count))
            if replicas > count:
                stack.append((first, replicas - count))
    return found


class _Merger:
    """A plan while its short runs are dissolved."""

    def __init__(self, problem: Problem, due: dict[str, float], plan: Plan) -> None:
        self.moved = False
        self._problem, self._due, self._prices = problem, due, price(problem)
        self._lengths = [slot.length_s for slot in problem.slots]
        self._jobs = {job.batch_id: job for job in problem.jobs}
        self._filler = Filler(problem, self._prices)
        self._filler.resume(plan.allotments, plan.loads)
        self._work: dict[tuple[str, str, int], float] = defaultdict(float)
        self._at: dict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
        """Job and its name for the configuration, by that and slot."""
        for a in plan.allotments:
            self._enter(_Piece(self._jobs[a.batch_id], a.key, a.slot_index, a.seconds))
        self._loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
        for load in plan.loads:
            self._loads[load.config, load.slot_index].append(load)
        self._configs = {c.name: c for job in problem.jobs for c in map(job.configuration, job.seconds_on)}
        self._tried: set[tuple[str, Run]] = set()
        self._idle: dict[str, dict[int, float]] = {}

    def short(self) -> list[tuple[str, Run]]:
        """All short runs, by the names of their configurations."""
        of = {name: self._filler.engines_of(config) for name, config in sorted(self._configs.items())}
        return [(name, run) for name, one in of.items() for run in short_runs(one, self._lengths, self._problem.min_run_s)]

    def merge(self) -> bool:
        """Try each that was not tried yet; was one dissolved?"""
        any_merged = False
        for name, run in self.short():
            count = run.replicas
            while count and (name, run._replace(replicas=count)) not in self._tried and len(self._tried) < MOST_TRIED:
                self._tried.add((name, run._replace(replicas=count)))
                if self._dissolve(self._configs[name], run._replace(replicas=count)):
                    any_merged = True
                    break
                count //= 2
        self.moved |= any_merged
        return any_merged

    def plan(self) -> Plan:
        """As it is now."""
        pieces = [(self._jobs[b], key, t, seconds) for (b, key, t), seconds in sorted(self._work.items()) if seconds > _EPS]
        allotments = [allot(self._problem, *piece) for piece in pieces]
        return assess(
            self._problem, self._prices, self._due, allotments, [load for loads in self._loads.values() for load in loads]
        )

    def _enter(self, piece: _Piece) -> None:
        name = piece.job.configuration(piece.key).name
        self._work[piece.job.batch_id, piece.key, piece.slot] += piece.seconds
        self._at[name, piece.slot].add((piece.job.batch_id, piece.key))

    def _move(self, piece: _Piece, sign: int = 1) -> None:
        """Add a piece, or take it away."""
        piece = piece._replace(seconds=sign * piece.seconds)
        self._filler.take(*piece)
        self._idle.pop(piece.job.configuration(piece.key).name, None)
        self._enter(piece)

    def _dissolve(self, config: Configuration, run: Run) -> bool:
        engines, loads = self._filler.engines_of(config), self._loads[config.name, run.first]
        starts = [load for load in loads if load.starts >= run.replicas]
        if not starts or not _within(engines, run):
            return False
        load = starts[0]
        a_start_s = load.seconds / load.starts
        if a_start_s + _EPS < self._startup_s(load):
            return False  # it goes on in the next slot
        engines.drop(run.first, run.last, run.replicas, a_start_s)
        self._idle.pop(config.name, None)
        out = self._taken(config, engines, run)
        into = self._placed(out)
        rise_g = sum(map(self._weighs, into)) - sum(map(self._weighs, out))
        homeless = sum(map(_share, out)) - sum(map(_share, into)) > _EPS
        if dissolved := not homeless and rise_g <= run.replicas * self._worth(load, run, a_start_s):
            loads.remove(load)
            if fewer := load.starts - run.replicas:
                loads.append(msgspec.structs.replace(load, starts=fewer, seconds=fewer * a_start_s))
        else:
            for piece in into:
                self._move(piece, -1)
            for piece in out:
                self._move(piece)
            engines.drop(run.first, run.last, -run.replicas, a_start_s)
        for name in {config.name, *(piece.job.configuration(piece.key).name for piece in into)}:
            self._filler.engines_of(self._configs[name]).settle()
            self._idle.pop(name, None)
        return dissolved

    def _startup_s(self, load: Load) -> float:
        job = self._jobs[load.batch_id]
        return job.startup_s_on[job.key_of(load.config)]

    def _taken(self, config: Configuration, engines: Engines, run: Run) -> list[_Piece]:
        """Take away what the replicas that are left have no time for, of what is due last."""
        out: list[_Piece] = []
        for t in range(run.first, run.last + 1):
            over_s = engines.busy[t] - engines.ready(t) * self._lengths[t]
            users = sorted(self._at[config.name, t], key=lambda user: (-self._due[user[0]], user))
            for batch_id, key in users:
                seconds = min(over_s, self._work[batch_id, key, t])
                if seconds > _EPS:
                    out.append(_Piece(self._jobs[batch_id], key, t, seconds))
                    self._move(out[-1], -1)
                    over_s -= seconds
        return out

    def _placed(self, pieces: list[_Piece]) -> list[_Piece]:
        """Put them where replicas are ready, or run just before, each where it weighs least; what fits nowhere is left out."""
        into: list[_Piece] = []
        for job, key, t, seconds in pieces:
            share, until_s = seconds / job.seconds_on[key], max(self._due[job.batch_id], self._problem.slots[t].end_s) + _EPS
            while share > _EPS and (cells := self._cells(job, until_s)):
                best = min(cells, key=lambda c: (self._weighs(c) / _share(c), c.slot, c.key))
                best = best._replace(seconds=min(best.seconds, share * job.seconds_on[best.key]))
                self._filler.engines_of(job.configuration(best.key)).prolong(best.slot, best.seconds)
                self._move(best)
                into.append(best)
                share -= _share(best)
        return into

    def _cells(self, job: Job, until_s: float) -> list[_Piece]:
        """Where it could work with no further start, and how long."""
        found: list[_Piece] = []
        for key in job.seconds_on:
            for t, idle_s in self._idle_s(job.configuration(key)).items():
                if self._problem.slots[t].end_s <= until_s:
                    found.append(_Piece(job, key, t, min(idle_s, self._filler.unused_s(job, t))))
        return [piece for piece in found if piece.seconds > _EPS]

    def _idle_s(self, config: Configuration) -> dict[int, float]:
        """Seconds that its replicas have left, by slot, where they have any."""
        if (found := self._idle.get(config.name)) is None:
            engines = self._filler.engines_of(config)
            free = ((t, engines.prolonged_s(t)) for t in range(len(self._lengths)))
            found = self._idle[config.name] = {t: seconds for t, seconds in free if seconds > _EPS}
        return found

    def _weighs(self, piece: _Piece) -> float:
        """Grams of a piece, with the trace for waiting."""
        second_g = self._prices.second_g(piece.job, piece.key, piece.slot) + self._prices.wait_g_per_s[piece.slot]
        return second_g * piece.seconds

    def _worth(self, load: Load, run: Run, a_start_s: float) -> float:
        """Grams of one start, and of idling for as long as its run is too short."""
        job = self._jobs[load.batch_id]
        key = job.key_of(load.config)
        config = job.configuration(key)
        second_g = self._prices.replica_g(config, job.power_w_on[key], run.first) + self._prices.wait_g_per_s[run.first]
        missing_s = self._problem.min_run_s - sum(self._lengths[run.first : run.last + 1])
        idle_g = self._prices.idle_g(config, job.idle_w(key), run.last) * missing_s
        return a_start_s * second_g + job.load_g_on.get(key, 0.0) + idle_g


def _share(piece: _Piece) -> float:
    """Of its job."""
    return piece.seconds / piece.job.seconds_on[piece.key]


def _within(engines: Engines, run: Run) -> bool:
    """Is the run still there, as others were dissolved?"""
    there = [engines.starts[run.first], engines.ready(run.last) - engines.held[run.last]]
    return min([*there, *engines.held[run.first : run.last]]) >= run.replicas
