"""Our queue against other people's, with fsync on, on one disk, in one run. The last line is JSON. See docs/benchmarks.md.

Each repetition runs every contender in a process of its own on a fresh database, the order turned round each time. Where a peer
has several settings, all of them run and its fastest counts. Ratios are taken within a repetition; their median is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import accept
from tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
OURS = "batchsched"
ACCEPT_REQUESTS = 1_000_000


class Contender(msgspec.Struct, frozen=True):
    """One way to run one queue: `discipline` names what it competes in; with `counted` False it is only shown."""

    discipline: str
    name: str
    setting: str
    script: str
    jobs: int
    words: tuple[int, ...]
    counted: bool = True


def contenders(quick: bool) -> list[Contender]:
    """Everyone, with jobs enough for a second or more each."""
    less = 10 if quick else 1

    def ours(discipline: str, jobs: int, setting: str, *words: int) -> Contender:
        return Contender(discipline, OURS, setting, "ours", jobs // less, words)

    def peer(discipline: str, name: str, jobs: int, setting: str, *words: int, counted: bool = True) -> Contender:
        return Contender(discipline, name, setting, f"{name}_jobs.py", jobs // less, words, counted)

    pg, lite, one = "ack_postgres", "ack_sqlite", "claim"
    return [
        ours(pg, 400_000, "1 server of 32 threads, groups of 100", 1, 32, 200, 8, 100),
        ours(pg, 400_000, "2 servers of 16 threads, groups of 100", 2, 16, 200, 8, 100),
        *(
            peer(pg, "pgqueuer", 40_000, f"{processes} process(es) of {managers} consumer(s), batches of {batch}",
                 processes, managers, batch)
            for processes, managers, batch in ((1, 1, 1000), (1, 2, 100), (2, 1, 100), (2, 1, 300), (2, 1, 1000))
        ),
        ours(lite, 200_000, "1 server of 16 threads, groups of 100", 1, 16, 200, 8, 100),
        *(peer(lite, "huey", 5000, f"synchronous=FULL, {threads} thread(s)", threads, 1) for threads in (1, 2, 4)),
        peer(lite, "huey", 5000, "synchronous=OFF, 1 thread: not durable", 1, 0, counted=False),
        ours(one, 2000, "one at a time", 1, 1, 1, 1, 1),
        peer(one, "procrastinate", 2000, "one at a time", 1),
        peer(one, "procrastinate", 2000, "10 at a time", 10, counted=False),
        peer(one, "dbos", 500, "10 workflows at a time", 10, counted=False),
    ]  # fmt: skip


class Arena:
    """Runs contenders, each on a database of its own on the same disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._postgres = PostgresServer(durable=True, parent=str(folder))
        self._postgres.start()
        self._number = 0

    def close(self) -> None:
        """Stop PostgreSQL and remove its files."""
        self._postgres.remove()

    def version(self) -> str:
        """PostgreSQL's."""
        return f"PostgreSQL {self._postgres.execute('SHOW server_version')[0][0]}"

    def jobs_per_s(self, contender: Contender) -> float:
        """Run one."""
        self._number += 1
        here = self._folder / str(self._number)
        here.mkdir()
        where, database = str(here / "queue.db"), f"bench_{self._number}"
        if contender.discipline != "ack_sqlite":
            self._postgres.execute(f"CREATE DATABASE {database}")
            where = self._postgres.url(database)
        command = [*_command(contender, where, here), *map(str, contender.words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{contender.name} ({contender.setting}) failed:\n{done.stderr[-3000:]}")
        shutil.rmtree(here)
        if contender.discipline != "ack_sqlite":
            self._postgres.execute(f"DROP DATABASE {database} WITH (FORCE)")
        answer = json.loads(done.stdout.splitlines()[-1])
        return float(answer["jobs"] / answer["seconds"])


def _command(contender: Contender, where: str, here: Path) -> list[str]:
    if contender.script == "ours":
        return [sys.executable, "-m", "benchmarks.queues.ours", where, str(here), str(contender.jobs)]
    script = Path(__file__).parent / "peers" / contender.script
    return [str(PEERS), str(script), where, str(contender.jobs)]


def fsync_p50_ms(folder: Path) -> float:
    """The median time to append 4 kB to a file and sync it."""
    took: list[float] = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def ratios(rates: dict[Contender, list[float]], discipline: str) -> list[float]:
    """Ours over the counted peer's fastest setting, repetition by repetition."""
    mine = best(rates, discipline, ours=True)
    theirs = best(rates, discipline, ours=False)
    return [a / b for a, b in zip(rates[mine], rates[theirs], strict=True)]


def best(rates: dict[Contender, list[float]], discipline: str, *, ours: bool) -> Contender:
    """The setting with the highest median."""
    found = [one for one in rates if one.discipline == discipline and one.counted and (one.name == OURS) == ours]
    return max(found, key=lambda one: statistics.median(rates[one]))


def table(rates: dict[Contender, list[float]]) -> Iterator[str]:
    """For people."""
    chosen = {best(rates, one.discipline, ours=ours) for one in rates for ours in (True, False)}
    yield f"{'jobs per second':24s} {'':60s} {'lowest':>9s} {'median':>9s} {'highest':>9s}"
    for one, found in rates.items():
        note = "" if one in chosen else "  shown, not counted" if not one.counted else "  not its best"
        figures = f"{min(found):9.0f} {statistics.median(found):9.0f} {max(found):9.0f}"
        yield f"{one.discipline:12s} {one.name:13s} {one.setting:58s} {figures}{note}"


def machine() -> str:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{os.cpu_count()} x {cpu}, {system}"


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one repetition of a tenth of the jobs: a glance, not a figure")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", default="/var/tmp", help="where the data lies: on the disk that is to be measured")
    parser.add_argument("--only", help="one discipline: accept, ack_postgres, ack_sqlite, claim")
    args = parser.parse_args()
    everyone = [one for one in contenders(args.quick) if args.only in {None, one.discipline}]
    rates: dict[Contender, list[float]] = {one: [] for one in everyone}
    with tempfile.TemporaryDirectory(prefix="bench-queue-", dir=args.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's user has to pass
        arena = Arena(folder)
        try:
            fsync_ms = fsync_p50_ms(folder)
            print(f"{machine()}, {arena.version()}, fsync p50 {fsync_ms:.2f} ms", flush=True)
            for number in range(1 if args.quick else args.repetitions):
                for one in everyone if number % 2 == 0 else reversed(everyone):
                    rates[one].append(arena.jobs_per_s(one))
                print(f"repetition {number + 1} done", flush=True)
        finally:
            arena.close()
        figures: dict[str, Any] = {}
        if args.only in {None, "accept"}:
            print(f"accepting a file of {ACCEPT_REQUESTS} requests, against a loop that parses its lines", flush=True)
            figures = accept.measure(ACCEPT_REQUESTS // (10 if args.quick else 1), 1 if args.quick else 3, folder)
    print("\n".join(table(rates)))
    print(json.dumps({**figures, **summary(rates, fsync_ms)}))
    return 0


def summary(rates: dict[Contender, list[float]], fsync_ms: float) -> dict[str, Any]:
    """The last line."""
    figures: dict[str, Any] = {}
    names = {"ack_postgres": "ack_ratio_postgres", "ack_sqlite": "ack_ratio_sqlite", "claim": "claim_ratio"}
    for discipline, name in names.items():
        if not any(one.discipline == discipline for one in rates):
            continue
        found = ratios(rates, discipline)
        print(f"{name}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        figures[name] = round(statistics.median(found), 3)
    figures["peers"] = {
        f"{one.name}, {one.discipline}, {one.setting}": round(statistics.median(found)) for one, found in rates.items()
    }
    return {**figures, "fsync_p50_ms": round(fsync_ms, 3)}


if __name__ == "__main__":
    sys.exit(main())
