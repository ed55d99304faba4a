"""Drive the requests of leased chunks at one engine: many in flight, none able to stop the others.

Lines go out in order; those under suspicion (`suspects`: in flight when an engine died, or answered with errors only) go last.
An engine may die for reasons of its own, with hundreds in flight; only after a second failure do the suspects go one by one, so
that the line that kills engines convicts itself and harms nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import aiohttp
import msgspec

from batchsched.clock import IdSource
from batchsched.errors import EngineFailed
from batchsched.executors.answers import Verdict, as_line, as_object, judge
from batchsched.executors.engine import Engine
from batchsched.executors.probes import healthy
from batchsched.executors.reporter import Reporter
from batchsched.executors.share import EnergyShare
from batchsched.lines import LineError, Request, answered, renamed, unanswered
from batchsched.wire import Lease, ReleaseReason, Result

log = logging.getLogger(__name__)
TRIES = 3
ALONE_FROM_ATTEMPT = 3
HEALTH_EVERY_S = 5.0
_LONGEST_PAUSE_S = 5.0
_HEADERS = {"content-type": "application/json"}


class Outcome(msgspec.Struct, frozen=True):
    """How the work on a chunk ended."""

    end: Literal["finished", "released", "failed", "lost"]
    reason: ReleaseReason = "shutdown"
    message: str = ""
    suspects: list[int] = []

    async def tell(self, reporter: Reporter) -> None:
        """The last word about the chunk."""
        match self.end:
            case "finished":
                await reporter.finish()
            case "released":
                await reporter.release(self.reason)
            case "failed":
                await reporter.fail(self.message, self.suspects)
            case "lost":
                await reporter.abandon()


class Line:
    """One request on its way."""

    __slots__ = ("alone", "asking", "number", "request", "suspect", "task", "tries")

    def __init__(self, number: int, request: Request, suspect: bool) -> None:
        self.number, self.request, self.suspect = number, request, suspect
        self.tries = 0
        self.alone = False
        self.asking = False  # the engine has it right now
        self.task: asyncio.Task[None] | None = None


class Work:
    """One leased chunk: its lines to come, its lines in flight, how it ended."""

    def __init__(self, lease: Lease, reporter: Reporter) -> None:
        self.lease, self.reporter = lease, reporter
        self.todo: deque[Line] = deque()
        self.alone: deque[Line] = deque()
        self.open: dict[int, Line] = {}
        self.stopping: ReleaseReason | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> int:
        """Lines not yet sent."""
        return len(self.todo) + len(self.alone)

    def end(self, outcome: Outcome) -> None:
        """Settle how it ended; the first word holds."""
        for line in self.open.values():
            _cancel(line)
        if not self.outcome.done():
            self.outcome.set_result(outcome)


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
        self.problem: EngineFailed | None = None
        """Why the engine counts as dead; None while it lives."""
        self.works: list[Work] = []
        self._engine, self._session, self._share, self._ids = engine, session, share, ids
        self._limit, self._on_change = limit, on_change
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_s, sock_connect=10)
        self._open = 0
        self._sure_until = math.inf
        self._renewed = asyncio.Event()
        self._alone = False
        self._check: asyncio.Task[bool] | None = None

    def add(self, lease: Lease, reporter: Reporter, lines: Iterable[tuple[int, Request | LineError]]) -> Work:
        """Take on a chunk: its undone lines. The engine must serve its model."""
        work = Work(lease, reporter)
        done, suspects = frozenset(lease.done), frozenset(lease.suspects)
        late: list[Line] = []
        for number, request in lines:
            if number in done:
                continue
            if isinstance(request, LineError):
                output = unanswered(self._ids.new("batch_req"), "", request.code, request.message)
                reporter.add(Result(number, False, 0, 0, 0, msgspec.Raw(output)))
                continue
            line = Line(number, request, number in suspects)
            (late if line.suspect else work.todo).append(line)
        for line in late:
            line.alone = lease.attempt >= ALONE_FROM_ATTEMPT
            (work.alone if line.alone else work.todo).append(line)
        self.works.append(work)
        work.outcome.add_done_callback(lambda _: self._forget(work))
        self._settle(work)
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
        self._settle(work)
        if work.open:
            asyncio.get_running_loop().call_later(grace_s, work.end, Outcome("released", reason))

    def lose(self, work: Work) -> None:
        """The lease is somebody else's: stop at once."""
        work.end(Outcome("lost"))

    def trust(self, until: float) -> None:
        """The leases are known to hold until then (monotonic seconds). After it nothing is sent: a worker that slept would run
        again what somebody else has done meanwhile."""
        self._sure_until = until
        self._renewed.set()
        self._renewed = asyncio.Event()
        self._pump()

    def revive(self) -> None:
        """The engine is up again: go on."""
        self.problem = None
        self._pump()

    async def watch(self) -> None:
        """Look after the engine while it has requests; runs until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            if self._open and self.problem is None and not await self._well():
                self._die("The engine stopped answering.")

    def _left(self) -> int:
        return sum(work.left for work in self.works)

    def _forget(self, work: Work) -> None:
        self.works.remove(work)
        self._pump()
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
        if self._alone or time.monotonic() >= self._sure_until:
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
            result = await self._result(work, line)
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
                self._settle(work)
            self._pump()

    def _settle(self, work: Work) -> None:
        """End the work if nothing of it is in flight and nothing is to be sent."""
        if work.open or work.outcome.done():
            return
        if not work.left:
            work.end(Outcome("finished"))
        elif work.stopping:
            work.end(Outcome("released", work.stopping))

    async def _result(self, work: Work, line: Line) -> Result | None:
        """What becomes of the line; None where that is not for now (engine dead, or to be tried alone later)."""
        pauses = 0
        while True:
            while time.monotonic() >= self._sure_until:
                await self._renewed.wait()
            line.asking = True
            status, body, request_id = await self._ask(work.lease, line.request.body)
            verdict, answer = judge(status, body) if status else (Verdict.TROUBLE, None)
            if verdict is Verdict.OK and answer:
                read, cached, written = answer.tokens
                output = answered(
                    self._ids.new("batch_req"), line.request.custom_id, status, request_id or answer.id or "", as_line(body)
                )
                return Result(line.number, True, read, cached, written, msgspec.Raw(output))
            if verdict is Verdict.REFUSED:
                return self._error(line, status, body, request_id)
            if verdict is Verdict.WRONG_ENGINE:
                self._die(f"The engine refuses to serve '{work.lease.model}' (status {status}).", blame=False)
                return None
            if not await self._well():
                self._die("The engine died.")
                return None
            line.asking = False
            if verdict is Verdict.TROUBLE:
                line.tries += 1
                if line.tries >= TRIES:
                    return self._exhausted(work, line, status, body, request_id)
            pauses += 1
            # Spread by line number, so that lines that were turned away together do not come back together.
            await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.1 * 2**pauses) * (0.75 + line.number % 16 / 32))

    async def _ask(self, lease: Lease, body: msgspec.Raw) -> tuple[int, bytes, str]:
        """Status (0 where no whole answer came), body or trouble, request id."""
        url, data = self._engine.url + lease.endpoint, renamed(body, lease.model) if lease.rename else bytes(body)
        try:
            async with self._session.post(url, data=data, headers=_HEADERS, timeout=self._timeout) as answer:
                return answer.status, await answer.read(), answer.headers.get("x-request-id", "")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            return 0, (str(problem) or type(problem).__name__).encode(), ""

    def _exhausted(self, work: Work, line: Line, status: int, body: bytes, request_id: str) -> Result | None:
        """Tried often enough. Once more alone at the end, then in another attempt: the engine may be the one that is ill."""
        if not line.alone:
            line.alone, line.tries = True, TRIES - 1
            work.alone.append(line)
            return None
        if not line.suspect:
            message = f"The engine did not answer line {line.number} (status {status})."
            work.end(Outcome("failed", message=message, suspects=sorted(each.number for each in (line, *work.alone))))
            return None
        if status:
            return self._error(line, status, body, request_id)
        text = f"The engine gave no whole answer in {TRIES} tries ({body.decode('utf-8', 'replace')[:200]})."
        return self._unanswered(line, "engine_error", text)

    def _error(self, line: Line, status: int, body: bytes, request_id: str) -> Result:
        line_id = self._ids.new("batch_req")
        output = answered(line_id, line.request.custom_id, status, request_id or line_id, as_object(status, body))
        return Result(line.number, False, 0, 0, 0, msgspec.Raw(output))

    def _unanswered(self, line: Line, code: str, message: str) -> Result:
        output = unanswered(self._ids.new("batch_req"), line.request.custom_id, code, message)
        return Result(line.number, False, 0, 0, 0, msgspec.Raw(output))

    # The engine's death.

    async def _well(self) -> bool:
        """One health check for however many ask at once."""
        if self.problem is not None:
            return False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._look())
        return await asyncio.shield(self._check)

    async def _look(self) -> bool:
        return self._engine.alive() and await healthy(self._session, self._engine.url, tries=3)

    def _die(self, message: str, *, blame: bool = True) -> None:
        """End the work of every chunk that the engine had lines of; the others wait for it to come back."""
        if self.problem is not None:
            return
        self.problem = EngineFailed(message)
        asking = [(work, line) for work in self.works for line in work.open.values() if line.asking]
        log.error("%s %d requests were in flight.", message, len(asking))
        if blame and len(asking) == 1 and asking[0][1].suspect and asking[0][1].alone:
            self._convict(*asking.pop())
        for work in list(self.works):
            suspects = [line.number for owner, line in asking if owner is work]
            if suspects:
                work.end(Outcome("failed", message=message, suspects=sorted(suspects) if blame else []))
                continue
            for line in list(work.open.values()):  # only pausing between two tries: still to do
                _cancel(line)
                del work.open[line.number]
                (work.alone if line.alone else work.todo).appendleft(line)
            self._settle(work)
        self._on_change()

    def _convict(self, work: Work, line: Line) -> None:
        log.error("Line %d of chunk %s ended the engine again; it is set aside.", line.number, work.lease.chunk_id)
        text = "This request ended the engine each time it ran, so it was set aside."
        work.reporter.add(self._unanswered(line, "engine_crash", text))
        _cancel(line)
        del work.open[line.number]


def _cancel(line: Line) -> None:
    if line.task and line.task is not asyncio.current_task():
        line.task.cancel()
