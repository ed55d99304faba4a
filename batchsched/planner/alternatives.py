"""What the next best place and the next best hour of a job would cost more: reduced costs of the plan's linear program."""

from __future__ import annotations

import msgspec

from batchsched.planner.plan import Allotment
from batchsched.planner.problem import Job
from batchsched.planner.shadow import Place, Shadow

_FULL = 0.5
"""Of what being late costs: a place that is worth so much is given up by others only where they are late."""


class Alternative(msgspec.Struct, frozen=True):
    """Somewhere or sometime else for all that is left of a job. However the rest is planned then, the least that all batches cost
    together rises by `more_g` or more."""

    place: Place
    start_s: float
    more_g: float
    power_g: float
    """Of that, what the job itself emits more there; the rest is what the place is worth to other work."""
    full: bool = False
    """There is no room for it without other work being late."""


def next_place(shadow: Shadow, job: Job, mine: list[Allotment]) -> Alternative | None:
    """The best configuration that is not used for it; None where there is no other, or its intensity is not known."""
    used = {a.key for a in mine}
    return _against(shadow, job, [place for place in shadow.places(job) if place.key not in used])


def next_hour(shadow: Shadow, job: Job, mine: list[Allotment]) -> Alternative | None:
    """The best hour in which it is not worked on, where it is worked on in others; None where there is none."""
    spans = [(a.start_s, a.end_s) for a in mine]
    slots = shadow.of.problem.slots
    middles = [slot.start_s + slot.length_s / 2 for slot in slots]
    free = [t for t, middle in enumerate(middles) if not any(start <= middle < end for start, end in spans)]
    found = [shadow.cheapest(job, key, free) for key in sorted({a.key for a in mine})]
    return _against(shadow, job, [place for place in found if place is not None])


def _against(shadow: Shadow, job: Job, others: list[Place]) -> Alternative | None:
    places = shadow.places(job)
    if not places or not others:
        return None
    best, other = places[0], min(others, key=lambda place: (place.grams, place.key))
    if not (_known(shadow, job, best) and _known(shadow, job, other)):
        return None
    start_s = shadow.of.problem.slots[other.slot].start_s
    late_g = shadow.late_g(job)
    more_g = min(other.grams, late_g) - min(best.grams, late_g)
    return Alternative(other, start_s, max(0.0, more_g), other.own_g - best.own_g, other.grams >= _FULL * late_g)


def _known(shadow: Shadow, job: Job, place: Place) -> bool:
    pools = job.configuration(place.key).takes
    return all(shadow.of.problem.pool(name).intensity_g_per_kwh[place.slot] is not None for name in pools)
