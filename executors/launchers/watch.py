"""What a launcher has seen of one pool so far: since when, who died, how long there are too many. Lost with the process; then it
begins anew, which costs a wait and no work."""

from __future__ import annotations

from collections.abc import Mapping

from batchsched.executors.launchers.names import Name
from batchsched.executors.launchers.port import Replica
from batchsched.executors.launchers.roll import Seen
from batchsched.wire import LaunchedWorker

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0
_STEADY_S = 60.0
LOOP = 3
"""So many deaths in a row are a crash loop."""


class Watch:
    """Of one pool. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.target = ""
        self.deaths = 0
        """In a row: none of its replicas did well between."""
        self.target_deaths = 0
        self.last_death = ""
        self._may_start_at_s = 0.0
        self._first_s: dict[Name, float] = {}
        self._known: dict[Name, LaunchedWorker] = {}
        self._worked_s: dict[Name, float] = {}
        self._looked_s: float | None = None
        self._surplus_since_s: float | None = None

    def aims(self, target: str) -> None:
        """What is asked for now; deaths of what was asked for before do not count against it."""
        if target != self.target:
            self.target, self.target_deaths, self._may_start_at_s = target, 0, 0.0

    def look(self, replicas: Mapping[Name, Replica], workers: Mapping[str, LaunchedWorker], now_s: float) -> list[Seen]:
        """Those that have not ended. A worker that the server does not hear of just now is taken as it was heard of last."""
        seen: list[Seen] = []
        since_s, self._looked_s = now_s - (now_s if self._looked_s is None else self._looked_s), now_s
        for name, replica in replicas.items():
            if replica.state == "ended":
                continue
            if worker := workers.get(str(name)):
                self._known[name] = worker
                if worker.leases:
                    self._worked_s[name] = self._worked_s.get(name, 0.0) + since_s
            for_s = now_s - self._first_s.setdefault(name, now_s)
            known = self._known.get(name)
            if known and (known.finished or for_s >= _STEADY_S):
                self.deaths = 0
            seen.append(Seen(name, replica.state == "stopping", for_s, known, self._worked_s.get(name, 0.0)))
        return seen

    def died(self, name: Name, why: str, now_s: float) -> float:
        """A replica ended without having been told to. How long to wait before the next start, in seconds."""
        self.deaths += 1
        self.target_deaths += name.digest == self.target
        self.last_death = why
        pause_s: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self.deaths - 1))
        self._may_start_at_s = now_s + pause_s
        return pause_s

    def gone(self, name: Name) -> None:
        """One ended and is forgotten."""
        self._first_s.pop(name, None)
        self._known.pop(name, None)
        self._worked_s.pop(name, None)

    def may_start(self, now_s: float) -> bool:
        """Is the pause after a death over?"""
        return now_s >= self._may_start_at_s

    def surplus_s(self, surplus: int, now_s: float) -> float:
        """For how long there have been too many."""
        if surplus <= 0 or self._surplus_since_s is None:
            self._surplus_since_s = now_s
        return now_s - self._surplus_since_s

    def trouble(self) -> str:
        """What to tell of a crash loop; empty where there is none."""
        return f"Its workers died {self.deaths} times in a row, the last {self.last_death}" if self.deaths >= LOOP else ""
