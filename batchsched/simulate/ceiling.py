"""The ceiling: what nobody can emit less than, who does this work in this time with these pools, whatever he knows.

A linear program over what came true: each batch's work, as it turned out, divided freely over pools and hours from its coming to
its deadline, engines started for nothing and kept for nothing. A simulation that emits less has a fault, and `hold` says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from batchsched.fleet import Fleet
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.simulate.fluid import Choices, divided
from batchsched.simulate.grid import Grid
from batchsched.simulate.outcome import Outcome
from batchsched.simulate.scene import CHUNK_REQUESTS, Arrival, Scene
from batchsched.units import JOULES_PER_KWH

HOUR_S = 3600.0
MOST_CHOICES = 300_000
"""More are not given to the program: the bound then takes no account of what batches take from one another."""
_GRACE_S = 2.0
"""As far as a deadline may be passed without a miss, and what edges of time are rounded by."""
_ROUNDING = 1e-6


class Impossible(AssertionError):
    """A simulation emitted less than can be: it has a fault."""


class Task(msgspec.Struct, frozen=True):
    """A batch's work as it turned out. Seconds count from the start of the simulation; the mappings are by pool."""

    from_s: float
    until_s: float
    width: int
    """Replicas that may work on it at once."""
    seconds_on: dict[str, float]
    power_w_on: dict[str, float]


def tasks(scene: Scene, late: Collection[str], end_s: float) -> list[Task]:
    """All batches of a scene; those of these names may take until the end, the others until their deadlines."""
    return [_task(scene, one, until_s(one, late, end_s)) for one in scene.arrivals]


def _task(scene: Scene, arrival: Arrival, end_s: float) -> Task:
    profiles = {name: scene.profiles[arrival.model, name] for name in arrival.pools}
    tokens = arrival.input_tokens, arrival.output_tokens
    request_s = {name: one.seconds(*tokens) * arrival.slowness for name, one in profiles.items()}
    return Task(
        arrival.at_s,
        end_s,
        math.ceil(arrival.requests / CHUNK_REQUESTS),
        {name: seconds * arrival.requests for name, seconds in request_s.items()},
        {name: scene.fleet.added_j(name, one.power_for(*tokens), 1.0) for name, one in profiles.items()},
    )


def least_g(found: Sequence[Task], fleet: Fleet, truth: Mapping[str, Floats], *, shared: bool = True) -> float:
    """Grams. `truth`: g/kWh by zone and hour. `shared`: do batches take room from one another? Without it the bound is lower,
    and is found much faster."""
    choices = [_choices(task, number, fleet, truth) for number, task in enumerate(found)]
    if shared and choices and sum(len(one.job) for one in choices) <= MOST_CHOICES:
        whole = Choices(*(np.concatenate([getattr(one, name) for one in choices]) for name in Choices.__struct_fields__))
        hours = max(len(values) for values in truth.values())
        room_s = np.repeat([pool.count * HOUR_S for pool in fleet.pools.values()], hours)
        answer = divided(whole, room_s, 10.0 * float(whole.grams.max(initial=1.0)))
        if answer.optimal and answer.x[len(whole.job) :].max(initial=0.0) < _ROUNDING:
            return answer.cost
    return math.fsum(_alone_g(one) for one in choices)


def _choices(task: Task, number: int, fleet: Fleet, truth: Mapping[str, Floats]) -> Choices:
    """Its pools in its hours."""
    most_hours = max(len(values) for values in truth.values())
    hours = np.arange(int(task.from_s // HOUR_S), min(most_hours, math.ceil(task.until_s / HOUR_S)))
    open_s = np.minimum((hours + 1) * HOUR_S, task.until_s) - np.maximum(hours * HOUR_S, task.from_s)
    places = {name: n for n, name in enumerate(fleet.pools)}
    cell: list[Ints] = []
    grams: list[Floats] = []
    seconds: list[Floats] = []
    for name, work_s in task.seconds_on.items():
        site = fleet.site_of(name)
        kwh = work_s * task.power_w_on[name] * site.pue / JOULES_PER_KWH
        cell.append(places[name] * most_hours + hours)
        grams.append(kwh * truth[site.zone][hours])
        seconds.append(np.full(len(hours), work_s))
    taken = np.concatenate(seconds)
    most = np.minimum(1.0, task.width * np.tile(open_s, len(cell)) / taken)
    return Choices(np.full(len(taken), number), np.concatenate(cell), np.concatenate(grams), taken, most)


def _alone_g(choices: Choices) -> float:
    """The least grams of one batch, if it were alone: the cleanest first. What its time does not suffice for counts as
    nothing."""
    order = np.argsort(choices.grams, kind="stable")
    before = np.append(0.0, np.cumsum(choices.most[order]))
    share = np.clip(np.minimum(before[1:], 1.0) - np.minimum(before[:-1], 1.0), 0.0, None)
    return float(share @ choices.grams[order])


def until_s(arrival: Arrival, late: Collection[str], end_s: float) -> float:
    """How long a batch may take: until its deadline; one that was late until the end."""
    return end_s if arrival.batch_id in late else arrival.deadline_s + _GRACE_S


def check(outcome: Outcome, scene: Scene, grid: Grid, *, shared: bool = False) -> None:
    """Of the planner alone, whose work takes what the scene says. Raises Impossible."""
    late = {*outcome.missed, *outcome.unfinished}
    undone = {*outcome.unfinished, *outcome.given_up}
    done = [arrival for arrival in scene.arrivals if arrival.batch_id not in undone]
    found = tasks(msgspec.structs.replace(scene, arrivals=done), late, grid.hours * HOUR_S)
    hold(outcome, found, scene.fleet, grid, shared=shared)


def hold(outcome: Outcome, found: Sequence[Task], fleet: Fleet, grid: Grid, *, shared: bool = False) -> None:
    """Hold what was emitted against the least that this work could have, of the batches that were finished. Raises Impossible."""
    least = least_g(found, fleet, grid.truth, shared=shared)
    if outcome.grams < least * (1 - 1e-6) - 1e-6:
        raise Impossible(
            f"'{outcome.policy}' emitted {outcome.grams:.6g} g where {least:.6g} g is the least that perfect foresight could: "
            "the simulation has a fault."
        )
