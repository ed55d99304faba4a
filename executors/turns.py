"""Requests that wait until an engine has room for them, each in its turn."""

from __future__ import annotations

import asyncio
from collections import deque

from batchsched.executors.admission import Admission
from batchsched.executors.demand import Demand


class Turns:
    """Lets in what `admission` admits, in the order in which it came."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.open = True
        """While it is not, nobody is let in, and nobody waits."""
        self._waiting: deque[tuple[Demand, asyncio.Future[int | None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def enter(self, demand: Demand) -> int | None:
        """Wait for room; the tokens taken, which go to `leave`. None where it is shut, or is while this waits."""
        if not self.open:
            return None
        turn: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((demand, turn))
        self.look()
        try:
            return await turn
        except asyncio.CancelledError:
            self._gone(turn)
            raise

    def leave(self, tokens: int) -> None:
        """What `enter` gave is given back."""
        self.admission.leave(tokens)
        self.look()

    def look(self) -> None:
        """Let in whom there is room for."""
        while self._waiting and self.open:
            demand, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            if not self.admission.admits(demand):
                return
            self._waiting.popleft()
            turn.set_result(self.admission.enter(demand))

    def shut(self) -> None:
        """Nobody is let in any more; who waits hears of it."""
        self.open = False
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def reopen(self) -> None:
        """As before."""
        self.open = True

    def _gone(self, turn: asyncio.Future[int | None]) -> None:
        """Whoever waited was cancelled, perhaps after its turn had come."""
        if turn.done() and not turn.cancelled() and (tokens := turn.result()) is not None:
            self.leave(tokens)
        else:
            self.look()
