"""A worker's way to the server: aiohttp, because the same event loop drives thousands of requests at the engine beside it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import msgspec

from batchsched.clock import Clock
from batchsched.errors import (
    BatchschedError,
    InvalidConfiguration,
    PermissionDenied,
    ServerError,
    ServerUnreachable,
    Unauthorized,
    by_code,
)
from batchsched.executors.tally import Tally
from batchsched.executors.told import LeaseTold
from batchsched.hosts import base_url
from batchsched.operations import NOBODY, Operations
from batchsched.traces import OFF, Tracer
from batchsched.wire import PREFIX, Lease

log = logging.getLogger(__name__)
CALL_TIMEOUT_S = 60.0
IDLE_S = 3.0
"""Of a connection. Servers, ours and vLLM's, close those that were idle for 5 s; a request just then would find nobody."""
_PASSING_STATUS = frozenset({408, 425, 429})
_LONGEST_PAUSE_S = 3.0  # well below a lease: after an outage heartbeats must be back in time
T = TypeVar("T")


def connections(limit: int = 100) -> aiohttp.TCPConnector:
    """That end before a server would end them; 0: as many as are wanted."""
    return aiohttp.TCPConnector(limit=limit, keepalive_timeout=IDLE_S)


class ServerLink:
    """Typed calls to one server. `give_up_at` (monotonic seconds) ends all insisting: set it when shutting down.

    A key that the server refuses at the first contact is a mistake of ours; later it is the server that is being changed. What is
    done for it is told to the `tracer` and to `operations` as well, in its time.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server_url: str,
        api_key: str,
        clock: Clock,
        tracer: Tracer = OFF,
        operations: Operations = NOBODY,
    ) -> None:
        self.give_up_at = float("inf")
        self._session, self._clock, self._tracer, self.tally = session, clock, tracer, Tally(operations)
        self._url = base_url(server_url) + PREFIX
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._offset = timedelta()
        self._down = self._met = False

    def now(self) -> datetime:
        """The server's time of day, so that a wrong clock here does not put energy into the wrong hour."""
        return self._clock.now() + self._offset

    def told_of(self, lease: Lease, engine: str) -> LeaseTold:
        """What will be told of a lease that was just taken; `engine`: which kind serves it."""
        return LeaseTold(self._tracer, lease, self.now, engine, self.tally)

    async def call(
        self, method: str, path: str, message: msgspec.Struct | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> bytes:
        """One try. Raises ServerUnreachable for what may pass, our other errors for what will not."""
        data = msgspec.json.encode(message) if message is not None else None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self._url + path, data=data, headers=self._headers, timeout=timeout
            ) as answer:
                body = await answer.read()
                self._see_time(answer.headers.get("date"))
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as problem:
            raise InvalidConfiguration(
                f"'{self._url}' is not a URL that can be called.", hint="Write for example http://127.0.0.1:8424."
            ) from problem
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            detail = str(problem) or type(problem).__name__
            raise ServerUnreachable(f"The server at {self._url} cannot be reached ({detail}).") from problem
        if answer.status < 400:
            self._met = True
            return body
        raise _error(answer.status, body)

    async def insist(
        self,
        method: str,
        path: str,
        message: msgspec.Struct | None,
        kind: type[T],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """The same, decoded, tried again with growing pauses for as long as the trouble may pass. `timeout_s`: of each try."""
        answer = await self.insist_raw(method, path, message, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            said = answer[:100].decode("utf-8", "replace")
            raise ServerError(f"What answers at {self._url} does not speak our protocol ({problem}): {said}") from problem

    async def insist_raw(
        self, method: str, path: str, message: msgspec.Struct | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> bytes:
        """The same, as bytes."""
        pause_s = 0.25
        while True:
            try:
                answer = await self.call(method, path, message, timeout_s=timeout_s)
            except (ServerUnreachable, Unauthorized) as problem:
                if isinstance(problem, Unauthorized) and not self._met:
                    raise
                if time.monotonic() + pause_s > self.give_up_at:
                    raise
                if not self._down:
                    log.warning("%s Trying again.", problem.message)
                self._down = True
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            else:
                if self._down:
                    log.info("The server answers again.")
                self._down = False
                return answer

    def _see_time(self, date: str | None) -> None:
        """Corrections of a second or two are noise of the header's resolution."""
        if date:
            offset = parsedate_to_datetime(date) - self._clock.now()
            self._offset = offset if abs(offset) > timedelta(seconds=3) else timedelta()


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


def _error(status: int, body: bytes) -> BatchschedError:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _Error(body[:300].decode("utf-8", "replace"))
    if status >= 500 or status in _PASSING_STATUS:
        return ServerUnreachable(f"The server answered {status}: {error.message}")
    if status == Unauthorized.http_status:
        return Unauthorized(error.message or None)
    kind = PermissionDenied if status == PermissionDenied.http_status else by_code(str(error.code))
    raised = kind(f"The server answered {status}: {error.message}")
    raised.http_status = status
    return raised
