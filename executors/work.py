"""One leased chunk in a worker's hands: its lines, where each of them stands, and how it all ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from batchsched.executors.demand import Demand
from batchsched.executors.hunt import Hunt
from batchsched.executors.reporter import Reporter
from batchsched.lines import Request
from batchsched.wire import Lease, ReleaseReason


class Outcome(msgspec.Struct, frozen=True):
    """How the work on a chunk ended."""

    end: Literal["finished", "released", "failed", "lost"]
    reason: ReleaseReason = "shutdown"
    message: str = ""
    suspects: list[int] = []
    """Lines that the engine may have died of, in the order in which they are to be tried."""
    erring: list[int] = []
    """Others that met errors only, of an engine that lived."""
    set_aside: int = 0

    async def tell(self, reporter: Reporter) -> None:
        """The last word about the chunk."""
        match self.end:
            case "finished":
                await reporter.finish()
            case "released":
                await reporter.release(self.reason)
            case "failed":
                await reporter.fail(self.message, self.suspects, self.set_aside, self.erring)
            case "lost":
                await reporter.abandon()


class Line:
    """One request on its way."""

    __slots__ = (
        "alone",
        "asking",
        "began",
        "demand",
        "erred",
        "excused_s",
        "let_go",
        "number",
        "pushed",
        "request",
        "running",
        "suspect",
        "task",
        "ticket",
        "tokens",
        "tries",
        "turned_away",
        "unwanted",
        "wait",
    )

    def __init__(self, number: int, request: Request, demand: Demand, *, suspect: bool = False, erred: bool = False) -> None:
        self.number, self.request, self.demand = number, request, demand
        self.suspect = suspect  # in flight when an engine died
        self.erred = erred  # it met errors only, in an attempt before this one
        self.tokens = 0  # held in the engine while it is in flight
        self.ticket = 0  # of the gate, where the engine is not ours alone
        self.pushed = False  # broken off to make room for others: to do again
        self.tries = 0
        self.alone = False
        self.asking = False  # the engine has it right now
        self.turned_away = False  # was it, when it was asked last?
        self.unwanted = False  # the engine takes others, but not this one
        self.began = 0.0  # when it was sent, in monotonic seconds
        self.excused_s = 0.0  # since then, with others at the engine
        self.running = self.let_go = False  # its task: does it run, is it to end
        self.wait: asyncio.Timeout | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Let go of its request, unless it is this very request that says so."""
        self.let_go = True
        # One that has not begun would end without a step, and what it holds would never be given back.
        if self.task and self.running and self.task is not asyncio.current_task():
            self.task.cancel()

    def begin(self) -> bool:
        """Its task runs now; False where it was let go before."""
        self.running = True
        return not self.let_go


class Work:
    """One leased chunk: its lines to come, its lines in flight, how it ended."""

    def __init__(self, lease: Lease, reporter: Reporter) -> None:
        self.lease, self.reporter = lease, reporter
        self.todo: deque[Line] = deque()
        self.alone: deque[Line] = deque()
        self.hunt: Hunt[Line] = Hunt()
        self.set_aside = 0
        """Lines that were convicted of ending engines."""
        self.open: dict[int, Line] = {}
        self.stopping: ReleaseReason | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> int:
        """Lines not yet sent."""
        return len(self.todo) + len(self.alone) + len(self.hunt)

    @property
    def over(self) -> bool:
        """Is nothing more of it to be sent?"""
        return self.stopping is not None or self.outcome.done()

    @property
    def next(self) -> Line | None:
        """The line that goes next: of a round of the hunt, then of all others."""
        if line := self.hunt.coming:
            return line
        return self.todo[0] if self.todo else self.alone[0] if self.alone else None

    def send(self, line: Line) -> None:
        """Its next line goes."""
        if line is self.hunt.coming:
            self.hunt.sent()
        else:
            (self.todo or self.alone).popleft()
        line.running = line.let_go = line.asking = line.turned_away = False
        self.open[line.number] = line

    def end(self, outcome: Outcome) -> None:
        """Settle how it ended; the first word holds."""
        for line in self.open.values():
            line.cancel()
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self, message: str, suspects: Sequence[int] | None = None, erring: Iterable[int] = ()) -> None:
        """The engine, or we, failed under it. `suspects`: lines that the engine may have died of; None: as many as still are.

        What was known of other lines is told too: whoever gets the chunk next goes on from there.
        """
        met, in_flight = set(erring), list(self.open.values())
        if suspects is None:
            suspects = [line.number for line in (*in_flight, *self.hunt) if line.suspect and line.number not in met]
        met.update(line.number for line in (*in_flight, *self.hunt, *self.todo, *self.alone) if line.erred)
        erred = sorted(met.difference(suspects))
        self.end(Outcome("failed", message=message, suspects=list(suspects), erring=erred, set_aside=self.set_aside))

    def put_back(self, line: Line) -> None:
        """A line that was in flight is still to do, and comes next."""
        line.cancel()
        del self.open[line.number]
        self.again(line)

    def again(self, line: Line) -> None:
        """A line that is not in flight any more comes next."""
        if line.suspect and not line.alone:
            self.hunt.put_back(line)
        else:
            (self.alone if line.alone else self.todo).appendleft(line)

    def pass_by(self) -> bool:
        """Another line than the one that would be next goes before it; False where there is no other."""
        if self.hunt.coming or len(self.todo) < 2:
            return False
        self.todo.rotate(-1)
        return True

    def acquit(self) -> None:
        """The guilty one was found: other suspects go with all the rest again."""
        for line in reversed(self.hunt.acquit()):
            line.suspect = False
            self.todo.appendleft(line)

    def settle(self) -> None:
        """End it if nothing of it is in flight and nothing is to be sent."""
        if self.open or self.outcome.done():
            return
        if not self.left:
            self.end(Outcome("finished"))
        elif self.stopping:
            self.end(Outcome("released", self.stopping))
