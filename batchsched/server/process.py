"""The server as a process: binds the port, then serves until a signal."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from batchsched import logs, supervisor, traces
from batchsched.errors import BatchschedError, PortInUse
from batchsched.server.app import create_app
from batchsched.server.auth import check_keys
from batchsched.server.bind import check_bind
from batchsched.server.runtime import Runtime
from batchsched.settings import Loaded


def serve(loaded: Loaded, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; `announce` gets the URL once requests are answered. Returns the exit code.

    Raises InsecureBind, PortInUse, DataFolderInUse, InvalidConfiguration, MissingExtra, DatabaseUnavailable before anything is
    served.
    """
    logs.configure(loaded.settings.logs, "%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    tracer = traces.opened(loaded.settings.traces, os.environ, "batchsched-server")
    settings = loaded.settings.server
    host = settings.host
    check_bind(settings)
    with listen(host, settings.port) as listener:
        runtime = Runtime(loaded, tracer=tracer)
        try:
            check_keys(settings, runtime.database, runtime.clock.now())
        except BatchschedError:
            runtime.database.close()
            raise
        scheme = "https" if settings.tls_cert else "http"
        url = f"{scheme}://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(runtime),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
            server_header=False,
            ssl_certfile=settings.tls_cert or None,
            ssl_keyfile=settings.tls_key or None,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies,
        )
        server = _Announcing(config, lambda: announce(url))
        try:
            server.run(sockets=[listener])
        except SystemExit:
            if runtime.not_started is None:
                raise
            with suppress(BatchschedError):
                runtime.stop()
            raise runtime.not_started from None
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound there; port 0 takes a free one. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only with the protocol named does asyncio set TCP_NODELAY on what it accepts; without, each answer waits some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is already in use.", hint="Stop the other program, or choose another with --port."
            ) from None
        raise BatchschedError(f"Cannot listen on {host}:{port}: {problem.strerror}.") from None
    return listener


class _Announcing(uvicorn.Server):
    """uvicorn's server, saying so when it answers."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; then announce."""
        await super().startup(sockets)
        if self.started:
            self._announce()
            supervisor.ready()
            self._signs = asyncio.create_task(supervisor.beats())  # to the end: requests in hand may take a while

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; whoever started us hears of it."""
        supervisor.stopping()
        await super().shutdown(sockets)
