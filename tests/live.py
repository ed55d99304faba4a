"""A real server on a real socket, in a thread of the test, and small ways to talk to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
import uvicorn

from batchsched.clock import Clock, ManualClock
from batchsched.queue.database import Database
from batchsched.server.app import create_app
from batchsched.server.process import listen
from batchsched.server.runtime import Runtime
from batchsched.settings import load
from batchsched.wire import PREFIX

T = TypeVar("T")
PATIENCE_S = 180.0
"""How long to wait for what must come: far longer than any machine takes, and free where it comes."""

HTTP = httpx.Client(timeout=PATIENCE_S, verify=False, limits=httpx.Limits(max_keepalive_connections=0))
"""For single questions without TLS, whose setup takes 40 ms each time; no connection outlives a server that is killed."""

BASIC = """
[sites.home]
zone = "WORLD"
[pools.local]
gpu = "cpu"
[models.tiny]
[planner]
solver = "greedy"
"""

EVENING = f"{BASIC.replace('WORLD', 'DE')}replan_s = 3600\n"
"""In a zone whose evening is dirty and whose night is clean; nothing is planned again by the clock alone."""

ONLINE = """
[sites.home]
zone = "DE"
[pools.online]
kind = "spare"
gpu = "L4"
ceiling = 12
slo = { ttft_ms = 500, tpot_ms = 50 }
[models.tiny]
parameters_b = 1
"""
"""One pool, whose servers are shared with online users."""


class LiveServer:
    """A running server: its URL, its runtime, and an HTTP client."""

    def __init__(self, url: str, runtime: Runtime) -> None:
        self.url = url
        self.runtime = runtime
        self.http = httpx.Client(base_url=url, timeout=PATIENCE_S, verify=False)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET that must succeed."""
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON of a POST that must end with `status`."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def upload(self, data: bytes, purpose: str = "batch") -> str:
        """Upload a file; its id."""
        answer = self.http.post("/v1/files", files={"file": ("input.jsonl", data)}, data={"purpose": purpose})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def submit(self, data: bytes, **fields: Any) -> dict[str, Any]:
        """Upload and create; the batch as it was answered."""
        body = {"input_file_id": self.upload(data), "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
        created: dict[str, Any] = self.post("/v1/batches", body)
        return created

    def batch(self, batch_id: str) -> dict[str, Any]:
        """A batch as it is now."""
        found: dict[str, Any] = self.get(f"/v1/batches/{batch_id}")
        return found

    def until(self, batch_id: str, *states: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for a batch to reach one of these states."""

        def reached() -> dict[str, Any] | None:
            found = self.batch(batch_id)
            return found if found["status"] in states else None

        return wait_for(reached, timeout_s)

    def advance(self, seconds: float) -> None:
        """Move the clock of a server that was given a ManualClock; what is due by then is done at once."""
        assert isinstance(self.runtime.clock, ManualClock)
        self.runtime.clock.advance(seconds)
        self.runtime.lifecycle.poke()

    def content(self, file_id: str) -> list[dict[str, Any]]:
        """The lines of a file."""
        return [json.loads(line) for line in self.http.get(f"/v1/files/{file_id}/content").text.splitlines()]

    def worker(self, pool: str = "local", **how: Any) -> HandWorker:
        """A worker driven by hand."""
        answer = self.post(f"{PREFIX}/workers", {"pool": pool, "host": "test", "pid": 1})
        return HandWorker(self, answer["worker_id"], **how)


class HandWorker:
    """Speaks the workers' protocol, one step at a time. Without `renames`, as workers did that knew no lease of another model."""

    def __init__(self, server: LiveServer, worker_id: str, ready: str = "tiny", renames: bool = False, lacking: str = "") -> None:
        self.server = server
        self.worker_id = worker_id
        self.ready = ready
        self.said = ({"renames": True} if renames else {}) | ({"lacking": [lacking]} if lacking else {})
        self.messages = 0

    def ask(self, max_chunks: int = 1) -> dict[str, Any]:
        """The whole answer to one claim."""
        body = {"worker_id": self.worker_id, "max_chunks": max_chunks, "ready_models": [self.ready], **self.said}
        answer: dict[str, Any] = self.server.post(f"{PREFIX}/leases", body)
        return answer

    def claim(self, max_chunks: int = 1) -> list[dict[str, Any]]:
        """Ask once."""
        leases: list[dict[str, Any]] = self.ask(max_chunks)["leases"]
        return leases

    def lease(self) -> dict[str, Any]:
        """Ask until there is a lease."""
        return wait_for(lambda: next(iter(self.claim()), None))

    def input(self, lease: dict[str, Any]) -> list[dict[str, Any]]:
        """The requests of a lease."""
        answer = self.server.http.get(f"{PREFIX}/chunks/{lease['chunk_id']}/input", params={"token": lease["token"]})
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines() if line.strip()]

    def record(self, lease: dict[str, Any], lines: list[int], *, ok: bool = True, status: int = 200, metered: bool = True) -> Any:
        """Deliver results for these lines."""
        requests = self.input(lease) if status == 200 else [{"custom_id": "?"}] * (lease["lines"])
        results = [_result(line, requests[line - lease["first_line"]]["custom_id"], ok=ok) for line in lines]
        self.messages += 1
        body = {"token": lease["token"], "results": results, "meter": meter(self.messages % 60) if metered else None}
        return self.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", body, status)

    def finish(self, lease: dict[str, Any]) -> None:
        """Deliver all that is missing, and finish."""
        lines = range(lease["first_line"], lease["first_line"] + lease["lines"])
        self.record(lease, [line for line in lines if line not in lease["done"]])
        self.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", {"token": lease["token"]})

    def drain(self, batch_id: str) -> dict[str, Any]:
        """Work until the batch is completed."""

        def step() -> dict[str, Any] | None:
            for lease in self.claim():
                self.finish(lease)
            found = self.server.batch(batch_id)
            return found if found["status"] == "completed" else None

        return wait_for(step)


def meter(second: int) -> dict[str, Any]:
    """Ten joules a second for ten seconds; each `second` is another span."""
    span = {"started_at": f"2026-01-01T00:00:{second:02}Z", "ended_at": f"2026-01-01T00:01:{second:02}Z"}
    return {**span, "busy_s": 10.0, "energy_j": 100.0, "energy_source": "modelled"}


def _result(line: int, custom_id: str, *, ok: bool) -> dict[str, Any]:
    output: dict[str, Any] = {"id": f"batch_req_{line}", "custom_id": custom_id, "error": None}
    output["response"] = {"status_code": 200 if ok else 400, "request_id": "r", "body": {"line": line}}
    return {"line": line, "ok": ok, "input_tokens": 3, "cached_tokens": 1, "output_tokens": 5, "output": output}


def requests(count: int, *, model: str = "tiny", start: int = 0, **body: Any) -> bytes:
    """A chat batch file of `count` lines with custom_ids r0, r1, ..."""
    lines = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": f"say {i}"}], "max_tokens": 8, **body},
        }
        for i in range(start, start + count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def wait_for(probe: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Ask until the answer is something; the pause is the server's own business, not an assumption about its speed."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing came within {timeout_s} s")


@cache
def _empty_database() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "batchsched.db"
        Database(path).close()
        return path.read_bytes()


def put_database(path: Path) -> Path:
    """An empty SQLite database where there is none yet: some hundred servers need not each migrate their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(_empty_database())
    return path


@contextmanager
def live_server(folder: Path, text: str = BASIC, clock: Clock | None = None, **flags: Any) -> Generator[LiveServer]:
    """Run a server on a free port with its data in `folder`."""
    config = folder / "batchsched.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    ours = {"server.data_dir": str(folder / "data"), "planner.memory_mb": 0}
    flags = {**ours, **{key.replace("__", "."): value for key, value in flags.items()}}
    loaded = load(config, env={}, flags=flags)
    if not loaded.settings.server.database_url:
        put_database(Path(loaded.settings.server.data_dir) / "batchsched.db")
    runtime = Runtime(loaded, clock=clock)
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(runtime), log_config=None, timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            live = LiveServer(f"http://127.0.0.1:{listener.getsockname()[1]}", runtime)
            with live.http:
                yield live
        finally:
            server.should_exit = True
            thread.join(timeout=PATIENCE_S)
