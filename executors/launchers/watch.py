"""What a launcher has seen of one pool so far: since when, who died where, how long there are too many. Lost with the process;
then it begins anew, which costs a wait and no work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from batchsched.executors.launchers.names import Name
from batchsched.executors.launchers.port import Replica
from batchsched.executors.launchers.roll import DEATHS, Seen
from batchsched.wire import LaunchedWorker

LOOP = 3
"""So many deaths in a row in one place are a crash loop."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0
_STEADY_S = 60.0
_LONGEST_LOOK_S = 10.0
"""Between two looks more does not count: the server was away, and nobody could show anything."""


@dataclass
class _Life:
    """One replica, in seconds while the server answered."""

    for_s: float = 0.0
    worked_s: float = 0.0
    silent_s: float = 0.0
    worker: LaunchedWorker | None = None


@dataclass
class _Place:
    """Deaths in a row in one place of the pool: none that was there between did well."""

    deaths: int = 0
    until_s: float = 0.0
    why: str = ""


class Watch:
    """Of one pool. Instants are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._target = self._good = ""
        self._target_deaths: list[int] = []
        self._good_deaths: Counter[int] = Counter()
        self._lives: dict[Name, _Life] = {}
        self._places: dict[int, _Place] = defaultdict(_Place)
        self._looked_s: float | None = None
        self._surplus_since_s: float | None = None

    def aims(self, target: str, good: str) -> None:
        """What is asked for now, and what is known to work; deaths of what was asked for before do not count against the target,
        and it need not wait for them."""
        self._good = good
        if target != self._target:
            self._target = target
            self._target_deaths.clear()
            self._places.clear()

    @property
    def broken(self) -> Collection[int]:
        """Places in which what is known to work died again and again too: deaths there say nothing about a launch."""
        return {place for place, deaths in self._good_deaths.items() if deaths >= DEATHS}

    @property
    def target_deaths(self) -> list[int]:
        """Where replicas of the target died, once for each death that says something about it."""
        broken = self.broken
        return [place for place in self._target_deaths if place not in broken]

    def look(self, replicas: Mapping[Name, Replica], workers: Mapping[str, LaunchedWorker], now_s: float) -> list[Seen]:
        """Those that have not ended, at a moment at which the server answered. A worker that it does not hear of just now is
        taken as it was heard of last."""
        since_s = min(_LONGEST_LOOK_S, now_s - (now_s if self._looked_s is None else self._looked_s))
        self._looked_s = now_s
        standing = {name: replica for name, replica in replicas.items() if replica.state != "ended"}
        return [self._seen(name, replica, workers.get(str(name)), since_s) for name, replica in standing.items()]

    def _seen(self, name: Name, replica: Replica, worker: LaunchedWorker | None, since_s: float) -> Seen:
        new = name not in self._lives
        life = self._lives.setdefault(name, _Life())
        since_s = 0.0 if new else since_s
        life.for_s += since_s
        life.silent_s = 0.0 if worker else life.silent_s + since_s
        life.worked_s += since_s if worker and worker.leases else 0.0
        life.worker = worker or life.worker
        if life.worker and (life.worker.finished or life.for_s >= _STEADY_S):
            self._places.pop(name.place, None)
            self._mended(name.place)
        return Seen(name, replica.state == "stopping", life.for_s, life.worker, life.worked_s, life.silent_s)

    def _mended(self, place: int) -> None:
        """What is there lives: as long as it was broken, deaths there said nothing about a launch, and they never will."""
        if place in self.broken:
            self._target_deaths = [each for each in self._target_deaths if each != place]
        self._good_deaths.pop(place, None)

    def died(self, name: Name, why: str, now_s: float) -> float:
        """A replica ended without having been told to, or had to be ended. For how long its place is left empty, in seconds."""
        place = self._places[name.place]
        place.deaths += 1
        place.why = why
        if name.digest == self._target != self._good:
            self._target_deaths.append(name.place)
        if name.digest == self._good:
            self._good_deaths[name.place] += 1
        pause_s: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (place.deaths - 1))
        place.until_s = now_s + pause_s
        return pause_s

    def gone(self, name: Name) -> None:
        """One ended and is forgotten."""
        self._lives.pop(name, None)

    def renewed(self, places: Collection[int]) -> None:
        """Other GPUs are there now."""
        for place in places:
            self._places.pop(place, None)
            self._mended(place)

    def paused(self, now_s: float) -> Collection[int]:
        """Places that are left empty for now."""
        return {place for place, one in self._places.items() if now_s < one.until_s}

    def hopeless(self, now_s: float) -> Collection[int]:
        """Of these, those of a crash loop."""
        return {place for place in self.paused(now_s) if self._places[place].deaths >= LOOP}

    def surplus_s(self, surplus: int, now_s: float) -> float:
        """For how long there have been too many."""
        if surplus <= 0 or self._surplus_since_s is None:
            self._surplus_since_s = now_s
        return now_s - self._surplus_since_s

    def troubles(self) -> list[str]:
        """What to tell of crash loops, place by place."""
        loops = {place: one for place, one in sorted(self._places.items()) if one.deaths >= LOOP}
        return [f"Workers in place {place} died {one.deaths} times in a row, the last {one.why}" for place, one in loops.items()]
