"""Work is leased in chunks, each of which one replica does alone: the last of them end when they end, however many others idle.

All pools together would do what is left in a moment; but a chunk that is begun on slow hardware takes its time there, and a chunk
more than there are replicas waits for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from batchsched.planner.problem import Job

_EPS = 1e-9
_MANY = 50
"""So many chunks for each replica are as good as work that divides at will."""


SIGMA = 0.1
"""How much longer or shorter one chunk takes than others of its batch: standard deviation of the logarithm. Our assumption."""


def piece_s(job: Job) -> dict[str, float]:
    """Expected seconds of the largest of its chunks on each pool, in the configuration there that deadlines count on."""
    return {pool: seconds * job.largest for pool, seconds in job.work_on.items()}


def spread(job: Job, replicas: float) -> float:
    """What is left of SIGMA over the chunks that each of so many replicas does, one after another; nothing of what is sure."""
    if job.spread <= 0:
        return 0.0
    return SIGMA / math.sqrt(max(1.0, job.width / max(1.0, replicas)))


def in_pieces(
    work_on: Mapping[str, float],
    pieces: int,
    replicas: Mapping[str, float],
    largest: float = 0.0,
    speeds: Mapping[str, float] = {},
) -> dict[str, float]:
    """Work on each pool, in replica-seconds, as much larger as it takes longer in so many pieces than work that divides at will;
    without the pools where a piece would end after all others are done. `largest`: the share of the work in the largest of them,
    where they are not of equal size: of chunks that were given back only a part is left, of others all. `speeds`: of pools whose
    replicas others have a part of, what is left: a piece takes longer there; what divides counts them as fewer whole ones."""
    largest = max(1 / pieces, largest)
    able = {name: _Place(s, replicas.get(name, 0.0), speeds.get(name, 1.0)) for name, s in work_on.items() if s > 0}
    able = {name: one for name, one in able.items() if one.replicas * one.speed > _EPS}
    if not able or pieces > _MANY * math.fsum(one.replicas for one in able.values()):
        return dict(work_on)
    whole_s = _whole_s(pieces, [(one.takes_s / pieces, one.replicas) for one in able.values()])
    if largest * pieces > 1 + _EPS:
        alike = [(one.takes_s * largest, one.replicas) for one in able.values()]
        whole_s = max(whole_s, _whole_s(int(1 / largest + _EPS), alike))
    used = {name: one for name, one in able.items() if one.takes_s * largest <= whole_s * (1 + _EPS)}
    divided = sorted((one.seconds / pieces, one.replicas * one.speed) for one in used.values())
    times = max(1.0, whole_s / _divided_s(pieces, divided))
    return {name: work_on[name] * times for name in used}


class _Place(NamedTuple):
    """Work on a pool, in seconds of a whole replica."""

    seconds: float
    replicas: float
    speed: float

    @property
    def takes_s(self) -> float:
        """On one that others have a part of."""
        return self.seconds / self.speed


def _whole_s(pieces: int, pools: list[tuple[float, float]]) -> float:
    """In which time so many pieces are done. `pools`: seconds that a piece takes, and replicas."""
    rate = math.fsum(count / seconds for seconds, count in pools)
    at = max(min(seconds for seconds, _ in pools), pieces / rate)
    while math.fsum(count * math.floor(at / seconds + _EPS) for seconds, count in pools) < pieces - _EPS:
        at = min((math.floor(at / seconds + _EPS) + 1) * seconds for seconds, _ in pools)
    return at


def _divided_s(pieces: int, pools: list[tuple[float, float]]) -> float:
    """The same of work that divides at will, on as many replicas as there are pieces, the fastest first."""
    left, rate = float(pieces), 0.0
    for seconds, count in pools:
        taken = min(left, count)
        rate += taken / seconds
        left -= taken
    return pieces / rate
