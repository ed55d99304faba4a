"""Chaos: real processes at work on batch after batch, while a seeded hand kills, stops and starves them.

`python -m tests.chaos --kills 200` (`make chaos`) runs it on both databases and ends with a line of JSON:
{"kills": n, "lost": 0, "redone": 0, "stale_refused": n}. `lost`: requests of an accepted batch without exactly one result at its
end. `redone`: requests that reached the engine after their result had been acknowledged. The engine is a counting stand-in
(fake_engine.py); servers, workers, PostgreSQL and files are real.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from batchsched.errors import DatabaseUnavailable
from tests.live import HTTP, PATIENCE_S, wait_for
from tests.postgres import PostgresServer
from tests.processes import BATCHSCHED, ROOT, end, free_port

LEASE_S = 3.0
LINES, CHUNK_LINES, OPEN_BATCHES = 40, 8, 3
POINTS = ("upload", "uploaded", "cut", "claimed", "append", "acknowledged", "merge", "merged", "completed")
OVER = {"completed", "failed", "expired", "cancelled"}
Process = subprocess.Popen[bytes]


class Chaos:
    """One scene: `servers` servers on one database and one folder, two workers, one engine; and what befell them."""

    def __init__(self, folder: Path, seed: int, postgres: PostgresServer | None) -> None:
        self.folder, self.postgres = folder, postgres
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.batches: dict[str, list[str]] = {}
        self.lost = 0
        self.stopped: dict[int, float] = {}
        self.ports = [free_port() for _ in range(2 if postgres else 1)]
        self.engine_port = free_port()
        self._set_clock(0)
        self.configs = [self._config(port) for port in self.ports]
        self.engine = self._start_engine()
        self.servers = [self._start_server(number) for number in range(len(self.ports))]
        self.workers = [self._start_worker(number) for number in range(2)]

    # -- the scene --

    def _config(self, port: int) -> Path:
        path = self.folder / f"{port}.toml"
        database = f'database_url = "{self.postgres.url("chaos")}"\n' if self.postgres else ""
        path.write_text(
            f"[server]\nport = {port}\ndata_dir = '{self.folder / 'data'}'\nlease_s = {LEASE_S}\nchunk_lines = {CHUNK_LINES}\n"
            f"max_attempts = 10000\n{database}[sites.home]\nzone = 'WORLD'\n[pools.local]\ncount = 2\nmax_in_flight = 4\n"
            f"[models.tiny]\n[planner]\nsolver = 'greedy'\n[worker]\nstate_dir = '{self.folder / f'worker-{port}'}'\n"
        )
        return path

    def _start(self, command: list[str], name: str, **extra: str) -> Process:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | extra,
            )

    def _start_engine(self) -> Process:
        arguments = ["--port", str(self.engine_port), "--delay-s", "0.08", "--arrivals-file", str(self.folder / "arrivals")]
        return self._start([sys.executable, str(ROOT / "tests" / "fake_engine.py"), *arguments], "engine")

    def _start_server(self, number: int) -> Process:
        point = self.random.choice(POINTS) if self.kills and self.random.random() < 0.6 else "never"
        times = self.random.randint(1, 400 if point in {"upload", "merge"} else 12)
        doom = [sys.executable, "-m", "tests.doomed_server", point, str(times), "--"]
        control = {"DOOM_ACKS": str(self.folder / "acks"), "DOOM_CLOCK": str(self.folder / "offset")}
        return self._start([*doom, "serve", "--config", str(self.configs[number])], f"server-{number}", **control)

    def _start_worker(self, number: int) -> Process:
        port = self.ports[number % len(self.ports)]
        where = ["--server", f"http://127.0.0.1:{port}", "--engine-url", f"http://127.0.0.1:{self.engine_port}"]
        config = str(self.configs[number % len(self.ports)])
        return self._start([*BATCHSCHED, "worker", *where, "--pool", "local", "--config", config], f"worker-{number}")

    def revive(self) -> None:
        """Start again what died, by our hand or by its own; what was stopped for long enough goes on."""
        for number, server in enumerate(self.servers):
            if server.poll() is not None:
                # One that found no database at its start says so and ends; whoever looks after servers starts it again.
                no_database = self.postgres is not None and server.returncode == DatabaseUnavailable.exit_code
                assert no_database or server.returncode == -signal.SIGKILL, self._tail(f"server-{number}")
                self.kills["server"] += not no_database
                self.servers[number] = self._start_server(number)
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None:
                assert worker.returncode == -signal.SIGKILL, self._tail(f"worker-{number}")
                self.kills["worker"] += 1
                self.workers[number] = self._start_worker(number)
        if self.engine.poll() is not None:
            self.kills["engine"] += 1
            self.engine = self._start_engine()
        for number, until in list(self.stopped.items()):
            if time.monotonic() > until:
                del self.stopped[number]
                self.workers[number].send_signal(signal.SIGCONT)

    def _tail(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")[-3000:]

    # -- what befalls it --

    def strike(self) -> None:
        """One accident, drawn from the seed."""
        accidents: list[tuple[int, Callable[[], None]]] = [
            (5, self._kill_server),
            (5, self._kill_worker),
            (2, self._kill_engine),
            (2, self._stop_worker),
            (1, self._full_disk),
            (1, self._jump_clock),
            *([(2, self._crash_database), (1, self._cut_connections)] if self.postgres else []),
        ]
        self.random.choices([what for _, what in accidents], [weight for weight, _ in accidents])[0]()

    def _kill_server(self) -> None:
        _kill(self.random.choice(self.servers))

    def _kill_worker(self) -> None:
        number = self.random.randrange(len(self.workers))
        self.stopped.pop(number, None)
        _kill(self.workers[number])

    def _kill_engine(self) -> None:
        _kill(self.engine)

    def _stop_worker(self) -> None:
        number = self.random.randrange(len(self.workers))
        if self.workers[number].poll() is None:
            self.workers[number].send_signal(signal.SIGSTOP)
            self.stopped[number] = time.monotonic() + 2 * LEASE_S

    def _full_disk(self) -> None:
        """No file of the servers may grow for a moment."""
        pids = [server.pid for server in self.servers if server.poll() is None]
        for limit in (1, resource.RLIM_INFINITY):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            if limit == 1:
                self._progress(1, 1.0)

    def _jump_clock(self) -> None:
        wrong = (self.folder / "offset").read_text() != "0"
        self._set_clock(0 if wrong else self.random.choice([-3600, 3600]))

    def _set_clock(self, wrong_by_s: int) -> None:
        """Of all servers; at no moment do they find half of it, or nothing."""
        fresh = self.folder / "offset.new"
        fresh.write_text(str(wrong_by_s))
        fresh.replace(self.folder / "offset")

    def _crash_database(self) -> None:
        assert self.postgres is not None
        self.postgres.restart(signal.SIGQUIT)
        self.kills["database"] += 1

    def _cut_connections(self) -> None:
        assert self.postgres is not None
        self.postgres.terminate("chaos")

    # -- what users do meanwhile --

    def submit(self) -> None:
        """A new batch; asking again with the same key until there is an answer."""
        name = uuid.UUID(int=self.random.getrandbits(128)).hex[:8]
        ids = [f"{name}-{i}" for i in range(LINES)]
        body = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
        upload = {"files": {"file": ("in.jsonl", _lines(ids))}, "data": {"purpose": "batch"}}
        file_id = self._ask("POST", "/v1/files", **upload)["id"]
        made = self._ask("POST", "/v1/batches", json={**body, "input_file_id": file_id}, headers={"Idempotency-Key": name})
        self.batches[made["id"]] = ids

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        """Ask whichever server answers, for as long as it takes."""

        def ask() -> httpx.Response | None:
            self.revive()
            port = self.random.choice(self.ports)
            with contextlib.suppress(httpx.HTTPError):
                answer = HTTP.request(method, f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S / 5, **options)
                assert answer.status_code < 400 or answer.status_code in {500, 503, 507}, answer.text
                assert answer.status_code != 500, answer.text
                return answer if answer.status_code == 200 else None
            return None

        answer = wait_for(ask)
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    def collect(self) -> None:
        """Look at the batches that are over: does every request have exactly one result?"""
        for batch_id, ids in list(self.batches.items()):
            batch = self._ask("GET", f"/v1/batches/{batch_id}")
            if batch["status"] not in OVER:
                continue
            files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
            lines = "".join(self._ask("GET", f"/v1/files/{file_id}/content") for file_id in files).splitlines()
            found = Counter(json.loads(line)["custom_id"] for line in lines)
            self.lost += sum(found[custom_id] != 1 for custom_id in ids) + len(found.keys() - set(ids))
            self.lost += 0 if batch["status"] == "completed" else LINES
            del self.batches[batch_id]

    def _progress(self, results: int, at_most_s: float) -> None:
        """Wait until so many further results are acknowledged."""
        before, until = len(self._noted("acks")), time.monotonic() + at_most_s
        while time.monotonic() < until and len(self._noted("acks")) < before + results:
            time.sleep(0.05)

    def _noted(self, name: str) -> list[tuple[float, str]]:
        path = self.folder / name
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [(float(at), tag) for at, _, tag in (line.partition(" ") for line in lines)]

    # -- the whole --

    def run(self, kills: int, say: Callable[[str], None] = lambda _: None) -> dict[str, int]:
        """Strike until so many were killed, then let everything end; what came out."""
        shown = 0
        while self.kills.total() < kills:
            self.revive()
            while len(self.batches) < OPEN_BATCHES:
                self.submit()
            self._progress(self.random.randint(1, 20), 4.0)
            self.strike()
            self.collect()
            if self.kills.total() >= shown + 10:
                shown = self.kills.total()
                say(f"{shown} kills: {dict(self.kills)}; lost {self.lost}, redone {self.redone()}")
        self._set_clock(0)
        wait_for(self._all_over, 3 * PATIENCE_S)
        stale = self._stale_refused()
        return {"kills": self.kills.total(), "lost": self.lost, "redone": self.redone(), "stale_refused": stale}

    def _all_over(self) -> bool:
        self.revive()
        self.collect()
        return not self.batches

    def redone(self) -> int:
        """Requests that reached the engine after their result had been acknowledged."""
        acknowledged: dict[str, float] = {}
        for at, tag in self._noted("acks"):
            acknowledged.setdefault(tag, at)
        return sum(at > acknowledged.get(tag, at) for at, tag in self._noted("arrivals"))

    def _stale_refused(self) -> int:
        text = self._ask("GET", "/metrics")
        found = [line.split()[1] for line in text.splitlines() if line.startswith("batchsched_stale_completions_total ")]
        return int(float(found[0])) if found else 0

    def close(self) -> None:
        """End every process."""
        for process in (*self.workers, *self.servers, self.engine):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            end(process, signal.SIGKILL)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=PATIENCE_S)


def _lines(ids: list[str]) -> bytes:
    bodies = [{"model": "tiny", "messages": [{"role": "user", "content": f"[[tag {custom_id}]] say"}]} for custom_id in ids]
    whole = [
        {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for custom_id, body in zip(ids, bodies, strict=True)
    ]
    return "".join(json.dumps(line) + "\n" for line in whole).encode()


def scene(database: str, seed: int, kills: int, say: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Chaos on one database, from an empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="batchsched-chaos-"))
    postgres = PostgresServer(durable=True) if database == "postgresql" else None
    chaos = None
    try:
        if postgres:
            postgres.start()
            postgres.execute("CREATE DATABASE chaos")
        chaos = Chaos(folder, seed, postgres)
        return chaos.run(kills, say)
    finally:
        if chaos:
            chaos.close()
        if postgres:
            postgres.remove()
        if "CHAOS_KEEP" not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Both databases in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200, help="at least so many, over both databases")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    total: Counter[str] = Counter({"kills": 0, "lost": 0, "redone": 0, "stale_refused": 0})
    print(f"seed {options.seed}; machine: {os.cpu_count()} CPUs", flush=True)
    for database in ("sqlite", "postgresql"):
        print(f"-- {database}", flush=True)
        total.update(scene(database, options.seed, (options.kills + 1) // 2, lambda text: print(text, flush=True)))
    print(json.dumps(total), flush=True)
    sys.exit(1 if total["lost"] or total["redone"] else 0)


if __name__ == "__main__":
    main()
