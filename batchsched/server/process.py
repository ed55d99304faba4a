"""The server as a process: binds the port, then serves until a signal."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import uvicorn

from batchsched.errors import BatchschedError, PortInUse
from batchsched.server.app import create_app
from batchsched.server.auth import check_bind
from batchsched.server.runtime import Runtime
from batchsched.settings import Loaded


def serve(loaded: Loaded, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C; `announce` gets the URL once requests are answered. Returns the exit code.

    Raises InsecureBind, PortInUse, DataFolderInUse, InvalidConfiguration before anything is served.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    host, port = loaded.settings.server.host, loaded.settings.server.port
    check_bind(host, loaded.settings.server.api_key)
    listener = _listen(host, port)
    try:
        runtime = Runtime(loaded)
    except BatchschedError:
        listener.close()
        raise
    url = f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
    app = create_app(runtime)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10, server_header=False)
    server = _Announcing(config, lambda: announce(url))
    server.run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
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
