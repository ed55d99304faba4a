"""The container's first process: a role by its first argument. Standard library only.

server [OPTIONS]   batchsched serve
worker [OPTIONS]   batchsched worker
both [OPTIONS]     both; the options are the worker's. Stopped, the worker gives back what it holds before the server ends.
healthy            the health check: 0 where the server answers /readyz, else 1 with the reason. A server is asked at its own
                   address; a worker, which has no port, is well where it reaches its server.
anything else      that command of batchsched
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType

BATCHSCHED = str(Path(sys.executable).with_name("batchsched"))
START_S = 120.0
TIMEOUT_S = 8.0


def main(arguments: list[str]) -> int:
    """Become the role; returns only where it is none of batchsched's commands."""
    role, options = (arguments or ["server"])[0], arguments[1:]
    if role == "healthy":
        return healthy()
    if role != "both":
        os.execv(BATCHSCHED, [BATCHSCHED, "serve" if role == "server" else role, *options])
    return both(options)


def address() -> str:
    """Of the server: as the worker's setting has it, else the one beside us."""
    if url := os.environ.get("BATCHSCHED_WORKER_SERVER_URL"):
        return url.rstrip("/").removesuffix("/v1")
    scheme = "https" if os.environ.get("BATCHSCHED_SERVER_TLS_CERT") else "http"
    return f"{scheme}://127.0.0.1:{os.environ.get('BATCHSCHED_SERVER_PORT', '8424')}"


def healthy() -> int:
    """Ask once."""
    url, ours = f"{address()}/readyz", "BATCHSCHED_WORKER_SERVER_URL" not in os.environ
    # Our own socket needs no proof of whose it is, and the certificate may not name this address.
    context = ssl._create_unverified_context() if ours else ssl.create_default_context()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):
            return 0
    except OSError as problem:
        print(f"{url}: {problem}", file=sys.stderr)
        return 1


def both(options: list[str]) -> int:
    """A server and a worker; where one ends the other does too. The exit code is that of the one that ended by itself, else 0."""
    stopping: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    running = [subprocess.Popen([BATCHSCHED, "serve"])]

    def ended() -> bool:
        return bool(stopping) or any(process.poll() is not None for process in running)

    deadline = time.monotonic() + START_S
    while not ended() and healthy():
        if time.monotonic() > deadline:
            stopping.append(signal.SIGALRM)
        time.sleep(0.5)
    if not ended():
        url = os.environ.get("BATCHSCHED_WORKER_SERVER_URL") or address()
        running.append(subprocess.Popen([BATCHSCHED, "worker", *options], env=os.environ | {"BATCHSCHED_WORKER_SERVER_URL": url}))
    while not ended():
        time.sleep(0.2)
    code = next((process.returncode for process in running if process.returncode is not None), 0)
    for process in reversed(running):  # the worker first: it gives back what it holds
        if process.poll() is None:
            process.terminate()
        process.wait()
    return int(signal.SIGALRM in stopping) or abs(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
