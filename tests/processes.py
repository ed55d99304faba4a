"""Real processes for the crash tests: server, worker, engine, each killed as a crash kills."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from batchsched.errors import StorageUnavailable
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.store import Store
from tests.live import HTTP, PATIENCE_S, wait_for

ROOT = Path(__file__).parent.parent
BATCHSCHED = [sys.executable, "-m", "batchsched.cli"]


LOWEST_PORT = 12_000
_ours: set[int] = set()


def free_port() -> int:
    """A port that stays ours until this process ends, whoever listens there and is killed and started again.

    The system gives ports of its own range to whoever asks for any, for each connection too: so it is one below them. What other
    processes of tests took is locked in a file, a byte for each port.
    """
    while True:
        port = random.SystemRandom().randrange(LOWEST_PORT, _first_of_any())
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _ours:
                fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
                _ours.add(port)
                return port


@cache
def _first_of_any() -> int:
    """Where the range begins of which the system gives ports to those that ask for any."""
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(setting.read_text().split()[0]) if setting.exists() else 49_152  # IANA's
    return first if first > 2 * LOWEST_PORT else 65_536


@cache
def _locks() -> int:
    """Kept open: to close it would let go of all of them."""
    return os.open(Path(tempfile.gettempdir(), f"batchsched-test-ports-{os.getuid()}"), os.O_RDWR | os.O_CREAT, 0o600)


class Stage:
    """A folder with a configuration, a fake engine that counts, and processes that are all gone at the end."""

    def __init__(
        self, folder: Path, *, lease_s: float = 2.0, delay_s: float = 0.15, chunk_lines: int = 20, more: str = ""
    ) -> None:
        self.folder = folder
        self.port, self.engine_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        self.delay_s = delay_s
        self.counts_file = folder / "computed"
        self.config = folder / "batchsched.toml"
        self.config.write_text(
            f"[server]\nport = {self.port}\ndata_dir = '{folder / 'data'}'\nlease_s = {lease_s}\nchunk_lines = {chunk_lines}\n"
            f"[sites.home]\nzone = 'WORLD'\n[pools.local]\nmax_in_flight = 4\n[models.tiny]\n[planner]\nsolver = 'greedy'\n"
            f"[worker]\nstate_dir = '{folder / 'worker'}'\n{more}"
        )
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: list[str], name: str, extra: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, by the code in `cwd`; its output goes to a log in the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **(extra or {})},
            )
        self._running.append(process)
        return process

    @property
    def order(self) -> Path:
        """Tells a server that was started `told` where to die, or where to kill another: see doomed_server.py."""
        return self.folder / "order"

    def server(
        self, doom: tuple[str, int] | None = None, *, told: bool = False, extra: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers; with `doom`, one that dies there; `told`, one that does as `order` says."""
        where = ["told", str(self.order)] if told else [str(part) for part in doom or ()]
        command = [sys.executable, "-m", "tests.doomed_server", *where, "--"] if where else BATCHSCHED
        process = self.start([*command, "serve", "--config", str(self.config)], "server", extra)
        wait_for(lambda: self.answers(self.url) or process.poll() is not None)
        assert process.poll() is None, (self.folder / "server.log").read_text()
        return process

    def engine(self) -> subprocess.Popen[bytes]:
        """Start the counting engine."""
        arguments = ["--port", str(self.engine_port), "--delay-s", str(self.delay_s), "--count-file", str(self.counts_file)]
        process = self.start([sys.executable, str(ROOT / "tests" / "fake_engine.py"), *arguments], "engine")
        wait_for(lambda: self.answers(self.engine_url, "/health"))
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker on the counting engine."""
        arguments = ["--server", self.url, "--pool", "local", "--engine-url", self.engine_url, "--config", str(self.config)]
        return self.start([*BATCHSCHED, "worker", *arguments], "worker")

    def answers(self, url: str, path: str = "/livez") -> bool:
        """Does somebody answer there?"""
        with contextlib.suppress(httpx.HTTPError):
            return HTTP.get(url + path, timeout=PATIENCE_S / 5).status_code == 200
        return False

    def computed(self) -> Counter[str]:
        """How often the engine computed each request."""
        return Counter(self.counts_file.read_text().split()) if self.counts_file.exists() else Counter()

    def acknowledged(self) -> set[str]:
        """custom_ids whose result stands acknowledged, read from the disk as a restart would."""
        return acknowledged(self.folder / "data")

    def half_done(self) -> int:
        """Chunks of which some results stand acknowledged, and not all."""
        import sqlite3

        database = sqlite3.connect(f"file:{self.folder / 'data' / 'batchsched.db'}?mode=ro", uri=True)
        query = "SELECT count(*) FROM chunks WHERE completed + failed BETWEEN 1 AND lines - 4"
        found: int = database.execute(query).fetchone()[0]
        database.close()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._running):
            end(process, signal.SIGKILL)


def acknowledged(data: Path, store: Store | None = None) -> set[str]:
    """custom_ids of the results that the database in a data folder names and the store has."""
    import sqlite3

    database = sqlite3.connect(f"file:{data / 'batchsched.db'}?mode=ro", uri=True)
    rows = database.execute("SELECT batch_id, parts FROM chunks WHERE result_bytes > 0").fetchall()
    database.close()
    store, found = store or FolderStore(data), set[str]()
    for batch_id, parts in rows:
        with contextlib.suppress(StorageUnavailable):  # merged already
            records = store.records({"batch_id": batch_id, "parts": json.loads(parts)})
            found |= {json.loads(record.output)["custom_id"] for record in records}
    return found


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
    """Signal a process, group and all for SIGKILL, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
    return process.wait(timeout=PATIENCE_S)


def tagged(count: int, prefix: str = "r", words: str = "") -> bytes:
    """A chat batch whose requests the counting engine can tell apart by their custom_id; `words` steer it."""
    lines = [
        {
            "custom_id": f"{prefix}{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "tiny", "messages": [{"role": "user", "content": f"[[tag {prefix}{i}]] say {i} {words}"}]},
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
