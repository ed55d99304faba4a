"""Send a chunk's results to the server in groups, while the engine goes on: nothing lost, nothing out of order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from batchsched.clock import SystemClock
from batchsched.errors import BatchschedError, Conflict, NotFound, PayloadTooLarge, ServerUnreachable
from batchsched.executors.backlog import Backlog
from batchsched.executors.link import ServerLink
from batchsched.executors.share import EnergyShare
from batchsched.executors.told import LeaseTold
from batchsched.traces import OFF
from batchsched.wire import Acknowledged, Fail, Finish, Lease, Release, ReleaseReason, Result, Results

log = logging.getLogger(__name__)
T = TypeVar("T")
GROUP = 100
GROUP_WAIT_S = 0.5
# The lease is somebody else's, or the chunk is gone.
LOST = (Conflict, NotFound)


class Reporter:
    """The results of one lease on their way out.

    `on_lost` is called once, when the server says that the lease is not ours; `on_refused`, with the reason, when it refuses
    the results for good. After that `finish` and `release` raise what it said, and `fail` can still be said.
    """

    def __init__(
        self,
        link: ServerLink,
        lease: Lease,
        share: EnergyShare,
        backlog: Backlog,
        on_lost: Callable[[], None],
        on_refused: Callable[[str], None],
        told: LeaseTold | None = None,
    ) -> None:
        self.recorded, self.told = 0, told or LeaseTold(OFF, lease, SystemClock().now)
        self._link, self._lease, self._share, self._on_lost, self._on_refused = link, lease, share, on_lost, on_refused
        self._backlog = backlog
        self._key = (lease.chunk_id, lease.token)
        self._most = 2 * GROUP  # in one message: a little more than waited for, so that a backlog shrinks
        self._waiting: list[Result] = []
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._closing = self._lost = False
        self._task = asyncio.create_task(self._run())

    def add(self, result: Result) -> None:
        """Queue one result."""
        self.told.result(result)
        tokens = result.input_tokens + result.output_tokens
        self._share.add(self._key, tokens - result.cached_tokens, tokens)
        self._waiting.append(result)
        self._backlog.grow(_size(result))
        self._some.set()
        if len(self._waiting) >= min(GROUP, self._most):
            self._enough.set()

    async def finish(self) -> None:
        """Send what waits, then say that every line is recorded."""
        await self._close("finish", lambda: Finish(self._lease.token, self._share.take(self._key)))

    async def release(self, reason: ReleaseReason, *, plain: bool = False) -> None:
        """Send what waits, then give the rest back; `plain`: for the plain way of serving."""
        await self._close("release", lambda: Release(self._lease.token, reason, self._share.take(self._key), plain))

    async def fail(self, message: str, suspects: list[int], set_aside: int = 0, erring: Sequence[int] = ()) -> None:
        """Send what waits, then say that the engine failed under the chunk: `suspects` it may have died of, `erring` lines met
        errors only."""
        told = [*suspects, *erring]
        await self._close(
            "fail", lambda: Fail(self._lease.token, message, told, self._share.take(self._key), set_aside, list(erring))
        )

    async def abandon(self) -> None:
        """Send nothing more."""
        self._lost = True
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # it was said already
        self._forget(len(self._waiting))
        self.told.over("lost")

    async def _close(self, verb: str, message: Callable[[], Finish | Release | Fail]) -> None:
        self._closing = True
        self._some.set()
        self._enough.set()
        await asyncio.wait({self._task})
        if verb != "fail":
            self._task.result()
        if not self._lost:
            await self._write(verb, message(), object)
        if not self._lost:
            self.told.over(verb)

    async def _run(self) -> None:
        try:
            await self._send()
        except ServerUnreachable:
            raise  # the link has given up: we are stopping
        except Exception as problem:
            log.error("The results of chunk %s are refused: %s", self._lease.chunk_id, problem)
            self._on_refused(f"The server refuses the results: {problem}")
            raise

    async def _send(self) -> None:
        while not self._lost:
            await self._some.wait()
            if not self._waiting and self._closing:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), GROUP_WAIT_S)
            group = self._waiting[: self._most]
            try:
                results = Results(self._lease.token, group, self._share.take(self._key))
                answer = await self._write("results", results, Acknowledged)
            except BatchschedError as problem:
                if problem.http_status != PayloadTooLarge.http_status or len(group) == 1:
                    raise
                self._most = len(group) // 2
                continue
            self.recorded += answer.recorded if answer else 0
            self._forget(len(group))
            if not self._closing:
                if not self._waiting:
                    self._some.clear()
                if len(self._waiting) < min(GROUP, self._most):
                    self._enough.clear()

    def _forget(self, count: int) -> None:
        """The first so many of those that wait are recorded, or nobody wants them."""
        gone, self._waiting[:count] = self._waiting[:count], []
        self._backlog.shrink(sum(_size(result) for result in gone))

    async def _write(self, verb: str, message: Results | Finish | Release | Fail, kind: type[T]) -> T | None:
        try:
            answer = await self._link.insist("POST", f"/leases/{self._lease.chunk_id}/{verb}", message, kind)
        except ServerUnreachable:
            raise  # it may have been recorded, and must not count twice
        except (BatchschedError, asyncio.CancelledError) as problem:
            self._share.give_back(self._key, message.meter)
            if not isinstance(problem, LOST):
                raise
            log.warning("Chunk %s is no longer ours: %s", self._lease.chunk_id, problem.message)
            self._lost = True
            self._on_lost()
            return None
        self.told.took(message.meter)
        return answer


def _size(result: Result) -> int:
    return len(memoryview(result.output))
