"""Drive the requests of leased chunks at one engine: many in flight, none able to stop the others.

Lines go out in order; those under suspicion (`suspects`: in flight when an engine died, or answered with errors only) go last.
Asking and asking again is `asking`'s; what an engine's death means for its chunks is `blame`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp

from batchsched.clock import IdSource
from batchsched.errors import EngineFailed
from batchsched.executors.asking import Asking
from batchsched.executors.blame import ALONE_FROM_ATTEMPT, bury
from batchsched.executors.engine import Engine
from batchsched.executors.outputs import Outputs
from batchsched.executors.reporter import Reporter
from batchsched.executors.share import EnergyShare
from batchsched.executors.trust import Trust
from batchsched.executors.vitals import Vitals
from batchsched.executors.work import Line, Outcome, Work
from batchsched.lines import LineError, Request
from batchsched.wire import Lease, ReleaseReason

log = logging.getLogger(__name__)
HEALTH_EVERY_S = 5.0


class Driver:
    """At most `limit` requests in flight over all chunks. `on_change` is called when there may be something to do or decide."""

    def __init__(
        self,
        engine: Engine,
        session: aiohttp.ClientSession,
        share: EnergyShare,
        ids: IdSource,
        *,
        limit: int,
        request_timeout_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self.works: list[Work] = []
        self._share, self._limit, self._on_change = share, limit, on_change
        self._outputs, self._trust = Outputs(ids, engine), Trust()
        self._vitals = Vitals(engine, session, self._buried)
        self._asking = Asking(engine, session, self._outputs, self._vitals, self._trust, request_timeout_s)
        self._open = 0
        self._alone = False

    @property
    def problem(self) -> EngineFailed | None:
        """Why the engine counts as dead; None while it lives."""
        return self._vitals.problem

    def add(self, lease: Lease, reporter: Reporter, lines: Iterable[tuple[int, Request | LineError]]) -> Work:
        """Take on a chunk: its undone lines. The engine must serve its model."""
        work = Work(lease, reporter)
        done, suspects = frozenset(lease.done), frozenset(lease.suspects)
        late: list[Line] = []
        for number, request in lines:
            if number in done:
                continue
            if isinstance(request, LineError):
                reporter.add(self._outputs.unread(number, request))
                continue
            line = Line(number, request, number in suspects)
            (late if line.suspect else work.todo).append(line)
        for line in late:
            line.alone = lease.attempt >= ALONE_FROM_ATTEMPT
            (work.alone if line.alone else work.todo).append(line)
        self.works.append(work)
        work.outcome.add_done_callback(lambda _: self._forget(work))
        work.settle()
        self._pump()
        return work

    def wants_more(self, coming: int = 0) -> bool:
        """Is it time for another chunk? `coming`: lines on their way here. A quarter of the room bridges the time to get it."""
        return self.problem is None and coming + self._left() <= self._limit // 4

    def stop(self, work: Work, reason: ReleaseReason, grace_s: float) -> None:
        """Send nothing more of a chunk; what is in flight may come back within `grace_s` seconds."""
        if work.stopping or work.outcome.done():
            return
        work.stopping = reason
        work.settle()
        if work.open:
            asyncio.get_running_loop().call_later(grace_s, work.end, Outcome("released", reason))

    def lose(self, work: Work) -> None:
        """The lease is somebody else's: stop at once."""
        work.end(Outcome("lost"))

    def trust(self, until: float) -> None:
        """The leases are known to hold until then (monotonic seconds); after it nothing is sent."""
        self._trust.renew(until)
        self._pump()

    def revive(self) -> None:
        """The engine is up again: go on."""
        self._vitals.revive()
        self._pump()

    async def watch(self) -> None:
        """Look after the engine while it has requests; runs until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            if self._open and self.problem is None and not await self._vitals.well():
                self._vitals.die("The engine stopped answering.")

    def _left(self) -> int:
        return sum(work.left for work in self.works)

    def _forget(self, work: Work) -> None:
        self.works.remove(work)
        self._pump()
        self._on_change()

    def _buried(self, message: str, blame: bool) -> None:
        bury(self.works, message, blame, self._outputs)
        self._on_change()

    # Sending. All of it runs in the event loop without waiting, so no lock is needed.

    def _pump(self) -> None:
        idle, wanted = not self._open, self.wants_more()
        while self.problem is None and self._open < self._limit and (chosen := self._next()):
            work, line = chosen
            work.open[line.number] = line
            self._open += 1
            self._alone = line.alone
            line.task = asyncio.create_task(self._run(work, line))
        if idle and self._open:
            self._share.busy(True)
        if not wanted and self.wants_more():
            self._on_change()

    def _next(self) -> tuple[Work, Line] | None:
        if self._alone or not self._trust.holds():
            return None
        for work in self.works:
            if work.stopping or work.outcome.done():
                continue
            if work.todo:
                return work, work.todo.popleft()
            if work.alone:  # its turn: let the engine run empty first
                return None if self._open else (work, work.alone.popleft())
        return None

    async def _run(self, work: Work, line: Line) -> None:
        try:
            result = await self._asking.result(work, line)
            if result is not None and not work.outcome.done():
                work.reporter.add(result)
        except Exception as problem:  # a bug of ours must not lose a line silently
            log.exception("Line %d of chunk %s could not be handled.", line.number, work.lease.chunk_id)
            work.end(Outcome("failed", message=f"The worker could not handle a line ({type(problem).__name__})."))
        finally:
            work.open.pop(line.number, None)
            self._open -= 1
            self._alone = self._alone and self._open > 0
            if not self._open:
                self._share.busy(False)
            if self.problem is None:
                work.settle()
            self._pump()
