"""The fake server itself: HTTP on this machine, by the standard library."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from batchsched.clock import Clock, RandomIds, SystemClock
from batchsched.errors import by_code
from batchsched.lines.rules import Rules
from batchsched.testing.answering import Answering, echo
from batchsched.testing.books import Books
from batchsched.testing.routes import Ask, Reply, Routes, failed


class _Moved:
    """A clock that runs on from wherever it was moved to."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.by = clock, timedelta()

    def now(self) -> datetime:
        return self._clock.now() + self.by

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.by.total_seconds()


class _Trouble(msgspec.Struct):
    """What goes wrong with the next requests of a kind. `reply`: None breaks the connection off."""

    method: str | None
    path: str
    left: int
    reply: Reply | None


class FakeServer:
    """A batchsched server for tests, at `url`. Use as a context manager, or close().

    `answer` says what becomes of a request: it gets an `Asked` and returns a text, a vector, a whole body or a `Refusal`; what it
    raises is the request's error. Without it, requests are echoed. A batch is done the first time that somebody looks at it; with
    `by_hand` only what `work` was told is. `models`: those that batches may name; any where none are named. `sites`: with their
    zones. `calls` holds the method and path of each request that came.
    """

    def __init__(
        self,
        answer: Answering = echo,
        *,
        models: Iterable[str] = (),
        sites: Mapping[str, str] | None = None,
        api_key: str = "",
        by_hand: bool = False,
        rules: Rules | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = _Moved(clock or SystemClock())
        places = {"home": "WORLD"} if sites is None else sites
        self._books = Books(answer, tuple(models), places, self._clock, RandomIds(), rules or Rules(), by_hand)
        self._routes = Routes(self._books, api_key)
        self._lock = threading.RLock()
        self._troubles: list[_Trouble] = []
        self.calls: list[tuple[str, str]] = []
        self._http = _Http(self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="fake-server", daemon=True)
        self._thread.start()

    def work(self, most: int | None = None) -> int:
        """Answer the next so many requests, or all; how many it were. Of use with `by_hand`."""
        with self._lock:
            return self._books.work(most)

    def advance(self, seconds: float) -> None:
        """Move the server's clock, past deadlines too; nobody waits."""
        with self._lock:
            self._clock.by += timedelta(seconds=seconds)
            self._books.settle()

    def fail_next(
        self,
        count: int = 1,
        *,
        method: str | None = None,
        path: str = "",
        status: int = 503,
        code: str = "server_error",
        message: str = "The test said so.",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The next so many requests of this method, whose path begins so, are answered with an error and do nothing."""
        problem = by_code(code)(message)
        problem.http_status = status
        with self._lock:
            self._troubles.append(_Trouble(method, path, count, failed(problem, headers)))

    def drop_next(self, count: int = 1, *, method: str | None = None, path: str = "") -> None:
        """The next so many requests of this method, whose path begins so, are carried out and never answered."""
        with self._lock:
            self._troubles.append(_Trouble(method, path, count, None))

    def close(self) -> None:
        """End it; connections that are still open are closed."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def reply(self, ask: Ask) -> Reply | None:
        """What is said to a request; None: nothing."""
        with self._lock:
            self.calls.append((ask.method, ask.path))
            trouble = self._trouble(ask)
            if trouble and trouble.reply:
                return trouble.reply
            reply = self._routes.answer(ask)
            return None if trouble else reply

    def _trouble(self, ask: Ask) -> _Trouble | None:
        for trouble in self._troubles:
            if trouble.left and trouble.method in {None, ask.method} and ask.path.startswith(trouble.path):
                trouble.left -= 1
                return trouble
        return None

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FakeServer({self.url!r})"


class _Http(ThreadingHTTPServer):
    """A thread a connection; all of them end with it."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Connections that clients keep open would be waited for without end."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # the other side was first
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        target, body = urlsplit(self.path), self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        ask = Ask(self.command, unquote(target.path), dict(parse_qsl(target.query, keep_blank_values=True)), headers, body)
        reply = cast("_Http", self.server).fake.reply(ask)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the standard library looks for

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = list[bytes]()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is named there
        """Nothing is logged: `calls` tells what came."""
