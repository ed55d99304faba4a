"""Drive the requests of leased chunks at one engine: many in flight, none able to stop the others.

How much is in flight is `admission`'s to say, in which order a chunk's lines go `order`'s. Those that were in flight when an
engine died go first, in rounds of a `hunt` that have the engine for themselves. Asking, and asking again, is `asking`'s; what an
engine's death means for its chunks is `blame`'s.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable

import aiohttp

from batchsched.clock import IdSource
from batchsched.errors import EngineFailed
from batchsched.executors import pulse
from batchsched.executors.admission import Admission
from batchsched.executors.asking import Asking
from batchsched.executors.backlog import Backlog
from batchsched.executors.blame import Blame
from batchsched.executors.canary import takes
from batchsched.executors.demand import demand_of
from batchsched.executors.engine import Engine
from batchsched.executors.order import arranged
from batchsched.executors.outputs import Outputs
from batchsched.executors.patience import Patience
from batchsched.executors.probes import page_of, tells_load
from batchsched.executors.pulse import Pulse
from batchsched.executors.reporter import Reporter
from batchsched.executors.share import EnergyShare
from batchsched.executors.spare.port import Answer, Gate
from batchsched.executors.split import Split
from batchsched.executors.trust import Trust
from batchsched.executors.vitals import Vitals
from batchsched.executors.work import Line, Outcome, Work
from batchsched.lines import LineError, Request
from batchsched.wire import Lease, ReleaseReason, Result, in_flight_at_death

log = logging.getLogger(__name__)
HEALTH_EVERY_S = 5.0
LOAD_EVERY_S = 1.0
_OUT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|MemoryError|[Cc]annot allocate memory")
PASSED_BY = 8
MOST_UNSENT_BYTES = 64 * 2**20


class Driver:
    """As much in flight over all chunks as `admission` allows, and nothing new while the `backlog` of results is full.

    `on_change` is called when there may be something to do or decide.
    """

    def __init__(
        self,
        engine: Engine,
        session: aiohttp.ClientSession,
        share: EnergyShare,
        ids: IdSource,
        *,
        admission: Admission,
        request_timeout_s: float,
        on_change: Callable[[], None],
        gate: Gate | None = None,
    ) -> None:
        self.works: list[Work] = []
        self.backlog = Backlog(self._unclogged, MOST_UNSENT_BYTES)
        """Of the results of all chunks: their reporters fill and empty it."""
        self._engine, self._session = engine, session
        self._share, self._admission, self._on_change = share, admission, on_change
        self._outputs, self._trust = Outputs(ids, engine), Trust()
        self._blame, self._patience, self._pulse = Blame(self._outputs), Patience(request_timeout_s), Pulse()
        self._vitals = Vitals(engine, session, self._buried)
        priority = gate.priority if gate else None
        self._asking = Asking(engine, session, self._outputs, self._vitals, self._trust, self._patience, priority)
        self._gate = gate
        if gate:
            gate.bind(self._pump, self._push_out)
        self._split: Split | None = None
        self._alone = False
        self._hunting: Work | None = None  # a round of its hunt has the engine for itself

    @property
    def problem(self) -> EngineFailed | None:
        """Why the engine counts as dead; None while it lives."""
        return self._vitals.problem

    @property
    def ready(self) -> list[str]:
        """What the engine serves right now."""
        served = self._engine.served
        return [served] if served and self.problem is None and self._engine.alive() else []

    def add(self, lease: Lease, reporter: Reporter, lines: Iterable[tuple[int, Request | LineError]]) -> Work:
        """Take on a chunk: its undone lines. The engine must serve its model."""
        work = Work(lease, reporter)
        done, erring = frozenset(lease.done), frozenset(lease.erring)
        suspects = {number: at for at, number in enumerate(in_flight_at_death(lease.suspects, lease.erring))}
        plain: list[tuple[Line, bytes]] = []
        suspected: list[Line] = []
        for number, request in lines:
            if number in done:
                continue
            if isinstance(request, LineError):
                reporter.add(self._outputs.unread(number, request))
                continue
            demand, opening = demand_of(request.body, lease.endpoint)
            line = Line(number, request, demand, suspect=number in suspects, erred=number in erring)
            if line.suspect:
                suspected.append(line)
            else:
                plain.append((line, opening))
        work.todo.extend(arranged(plain))
        work.hunt.suspect(sorted(suspected, key=lambda line: suspects[line.number]))
        self.works.append(work)
        work.outcome.add_done_callback(lambda _: self._forget(work))
        work.settle()
        self._pump()
        return work

    def wants_more(self, coming: int = 0) -> bool:
        """Is it time for another chunk? `coming`: lines on their way here. A quarter of the room bridges the time to get it."""
        return self.problem is None and not self.backlog.full and coming + self._left() <= self._admission.room // 4

    def stop(self, work: Work, reason: ReleaseReason, grace_s: float) -> None:
        """Send nothing more of a chunk; what is in flight may come back within `grace_s` seconds, or goes at once where the
        engine has other users."""
        grace_s = 0.0 if self._gate else grace_s
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

    async def revive(self, split: Split | None = None) -> None:
        """The engine is up: see what it holds, and go on. `split`: the way by which another one reads its prompts, if it does."""
        self._split = self._asking.split = split
        if self._engine.served:
            capacity = (await page_of(self._session, self._engine.url)).capacity(self._engine.context)
            self._admission.resize(self._split.resize(capacity) if self._split else capacity)
        self._patience.begin()
        self._vitals.revive()
        self._pump()

    async def watch(self) -> None:
        """Look after the engine while it has requests; runs until cancelled."""
        async with asyncio.TaskGroup() as watches:
            watches.create_task(self._watch_health())
            watches.create_task(self._watch_load())

    async def _watch_health(self) -> None:
        looked = time.monotonic()
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            before, looked = looked, time.monotonic()
            if not self._admission.requests or self.problem is not None:
                self._pulse.rest()
                continue
            shared = not self._engine.ours and await self._others_there()
            for line in self._open():
                self._asking.retime(line, looked - before if shared else 0.0)
            if not await self._vitals.well():
                self._vitals.die("The engine stopped answering.")
            elif self._split and not self._split.asked:
                self._pulse.rest()  # all of it waits for the partner's
            elif self._pulse.quiet() and self._pulse.stopped(await self._counted(), time.monotonic()):
                await self._stands_still()
            else:
                await self._feel()

    async def _stands_still(self) -> None:
        """It hangs, unless it has turned away all that is in flight and answers something else: then it does not want those."""
        lines = self._open()
        if lines and all(line.turned_away for line in lines):
            if await takes(self._session, self._engine, self.works[0].lease.model):
                for line in lines:
                    line.unwanted = True
            self._pulse.rest()
        else:
            self._vitals.die(f"The engine says that it is well, and has done nothing for {pulse.STALL_S:.0f} s.")

    async def _watch_load(self) -> None:
        """More often while more could be in flight: otherwise an engine's metrics are too long a page for it."""
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            if self._admission.short or self._split:
                await self._feel()

    async def _feel(self) -> None:
        if not tells_load(metrics := self._engine.dialect.metrics):
            return
        page = await page_of(self._session, self._engine.url)
        if load := page.load(metrics):
            if self._split:
                if fetching := page.fetching():
                    self._split.fetching(fetching, time.monotonic())
                self._split.feel(load)
                self._admission.resize(self._split.room)
            else:
                self._admission.feel(load)
            self._pump()

    async def _others_there(self) -> bool:
        """Has an engine that is not ours alone more to do than what we gave it? It may have, where it does not say."""
        before = self._open()
        found = (await page_of(self._session, self._engine.url)).in_flight(self._engine.dialect.metrics)
        return found is None or found > sum(line.demand.requests for line in {*before, *self._open()})

    def _open(self) -> list[Line]:
        return [line for work in self.works for line in work.open.values()]

    async def _counted(self) -> float | None:
        if not (counters := self._engine.dialect.token_counters):
            return None
        counted = (await page_of(self._session, self._engine.url)).tokens(counters)
        return counted + self._split.counts["read_tokens"] if counted is not None and self._split else counted

    def _unclogged(self) -> None:
        self._pump()
        self._on_change()  # it may be time for another chunk

    def _left(self) -> int:
        return sum(work.left for work in self.works)

    def _forget(self, work: Work) -> None:
        self.works.remove(work)
        self._pump()
        self._on_change()

    def _buried(self, message: str, blame: bool) -> None:
        if said := self._engine.last_words():
            message = f"{message.rstrip('.')}: {said}"
        if blame and _OUT_OF_MEMORY.search(said):
            log.warning("It ran out of memory; from now on at most %d requests are in flight.", self._admission.crowded())
            if self._split:
                self._split.crowded()
        self._blame.bury(self.works, message, blame)
        self._on_change()

    # Sending. All of it runs in the event loop without waiting, so no lock is needed.

    def _pump(self) -> None:
        admission = self._admission
        idle, wanted = not admission.requests, self.wants_more()
        while self.problem is None and not self.backlog.full and (chosen := self._next()):
            work, line = chosen
            work.send(line)
            line.tokens = admission.enter(line.demand)
            if self._gate:
                demand = line.demand
                line.ticket = self._gate.enters(admission.prompt_tokens(demand), demand.requests, demand.prompts)
            self._alone = line.alone
            line.task = asyncio.create_task(self._run(work, line))
        if idle and admission.requests:
            self._share.busy(True)
        if self._gate:
            self._gate.idle(not self._left())
        if not wanted and self.wants_more():
            self._on_change()

    def _next(self) -> tuple[Work, Line] | None:
        if self._alone or not self._trust.holds():
            return None
        if self._hunting and not self._hunting.over and self._hunting.hunt.coming:
            return self._admitted(self._hunting)
        if self._hunting and self._admission.requests:
            return None
        self._hunting = None
        for work in self.works:
            if work.over or not work.left:
                continue
            if work.hunt and not self._admission.requests:
                work.hunt.begin()
                self._hunting = work
            return self._admitted(work)
        return None

    def _admitted(self, work: Work) -> tuple[Work, Line] | None:
        """Its next line, if it may go now: one that must go alone, and a round of a hunt, wait until the engine has run empty."""
        line, busy = work.next, self._admission.requests > 0
        if line is None or (busy and (line.alone or (work.hunt and work is not self._hunting))):
            return None
        if self._gate and not self._gated(work, self._gate):
            return None
        line = work.next
        assert line is not None
        return (work, line) if line.alone or self._admission.admits(line.demand) else None

    def _gated(self, work: Work, gate: Gate) -> bool:
        """May a line of it go to an engine that others use too? A long prompt that has to wait is passed by shorter ones."""
        for _ in range(PASSED_BY):
            if (line := work.next) is None:
                break
            demand = line.demand
            answer = gate.asks(self._admission.prompt_tokens(demand), demand.requests)
            if answer is not Answer.PASS_BY or not work.pass_by():
                return answer is Answer.GO
        return False

    def _push_out(self, count: int) -> None:
        """Break off the lines that were sent last: they lose least, and come first again."""
        sent = [(line.ticket, line) for work in self.works for line in work.open.values() if line.asking and not line.pushed]
        for line in [line for _, line in sorted(sent, key=lambda each: -each[0])[:count]]:
            line.pushed = True
            line.cancel()

    def _mishandled(self, work: Work, line: Line, message: str) -> None:
        """Once more in another attempt, perhaps by another version of us; then it alone is given up."""
        if not line.erred:
            work.fail(message, erring=[line.number])
        elif not work.outcome.done():
            work.reporter.add(self._outputs.unanswered(line, "worker_error", message))

    async def _run(self, work: Work, line: Line) -> None:
        try:
            result = await self._asking.result(work, line) if line.begin() else None
            if result is not None and not work.outcome.done():
                work.reporter.add(result)
                self._pulse.felt()
                if self._gate:
                    self._gate.leaves(line.ticket, result.input_tokens, result.output_tokens)
                if result.ok:
                    self._learn(line, result)
        except Exception as problem:  # a bug of ours must not lose a line silently, nor those beside it
            log.exception("Line %d of chunk %s could not be handled.", line.number, work.lease.chunk_id)
            self._mishandled(work, line, f"The worker could not handle the request ({type(problem).__name__}: {problem}).")
        finally:
            ours = work.open.pop(line.number, None) is line
            self._admission.leave(line.tokens)
            if self._gate:
                self._leave(self._gate, work, line)
            if line.pushed:
                line.pushed = line.asking = False
                if ours:  # else the engine died meanwhile, and it was put back
                    work.again(line)
            if not self._admission.requests:
                self._alone = False
                self._share.busy(False)
            if self.problem is None:
                work.settle()
            self._pump()

    def _learn(self, line: Line, result: Result) -> None:
        for one in (self._admission, self._split):
            if one:
                one.learn(line.demand, result.input_tokens, result.cached_tokens, result.output_tokens)

    def _leave(self, gate: Gate, work: Work, line: Line) -> None:
        """It is not at the engine any more. Where it was broken off, for whatever reason, what it had is waste."""
        if line.asking:
            self._share.waste(work.lease.batch_id, gate.lost_tokens(line.ticket))
        gate.leaves(line.ticket)
