"""A launcher in memory that is slow to start and slow to end, as clusters are: nothing happens but when its clock moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from batchsched.clock import ManualClock
from batchsched.errors import LaunchFailed
from batchsched.executors.launchers.port import Replica, Spec, State


@dataclass
class _Job:
    spec: Spec
    asked_at: datetime
    runs_at_s: float
    gone_at_s: float | None = None
    why: str = ""
    clean: bool = True


@dataclass
class Cluster:
    """What outlives a launcher: its jobs. `starts`: names in the order in which they were started."""

    clock: ManualClock
    queue_s: float = 5.0
    end_s: float = 2.0
    stubborn: bool = False
    """Jobs do not end until they are made to."""
    down: bool = False
    jobs: dict[str, _Job] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)

    def die(self, name: str, why: str = "with exit code 1; its log ends: Error.", *, clean: bool = False) -> None:
        """A job ends by itself."""
        job = self.jobs[name]
        job.gone_at_s, job.why, job.clean = self.clock.monotonic(), why, clean


class FakeLauncher:
    """The port over a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def _reached(self) -> None:
        if self._cluster.down:
            raise LaunchFailed("The cluster does not answer.")

    async def start(self, name: str, spec: Spec) -> None:
        self._reached()
        clock = self._cluster.clock
        if name not in self._cluster.jobs:
            self._cluster.jobs[name] = _Job(spec, clock.now(), clock.monotonic() + self._cluster.queue_s)
            self._cluster.starts.append(name)

    async def stop(self, name: str, grace_s: float) -> None:
        self._reached()
        job, now_s = self._cluster.jobs.get(name), self._cluster.clock.monotonic()
        if job is None or (job.gone_at_s is not None and job.gone_at_s <= now_s):
            return
        takes_s = grace_s if self._cluster.stubborn else min(grace_s, self._cluster.end_s)
        waiting = now_s < job.runs_at_s
        ends_at_s = now_s if waiting else now_s + takes_s
        job.gone_at_s = ends_at_s if job.gone_at_s is None else min(job.gone_at_s, ends_at_s)
        job.why = "it was told to end."

    async def replicas(self) -> dict[str, Replica]:
        self._reached()
        return {name: self._seen(name, job) for name, job in self._cluster.jobs.items()}

    def _seen(self, name: str, job: _Job) -> Replica:
        now_s = self._cluster.clock.monotonic()
        state: State = "waiting" if now_s < job.runs_at_s else "running"
        if job.gone_at_s is not None:
            state = "ended" if job.gone_at_s <= now_s else "stopping"
        ended = state == "ended"
        return Replica(name, state, job.asked_at, job.why if ended else "", clean=ended and job.clean)

    async def forget(self, name: str) -> None:
        self._reached()
        job = self._cluster.jobs.get(name)
        if job is not None and job.gone_at_s is not None and job.gone_at_s <= self._cluster.clock.monotonic():
            del self._cluster.jobs[name]
