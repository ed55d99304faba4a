"""Drafts from another machine with real vLLMs on the CPU: the answers of the target alone, whatever dies on the other side."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchsched.executors.drafts import target_args, target_environment
from batchsched.executors.engine_home import EngineHome
from benchmarks.modes_engines import CONTEXT_TOKENS, Engine, engine, free_port, tiny_models
from benchmarks.modes_load import Load, Sent, of_lengths, run, spread, to
from benchmarks.modes_ties import other_answers, partings, tie_at
from tests.engine_fixture import ROOT, real_engine

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(1500)]
PLAIN = ["--no-enable-prefix-caching"]
KEY = "a key"
SERVICE = """
    import asyncio, sys
    from batchsched.executors.drafts import serve_drafts

    async def main():
        async with serve_drafts(sys.argv[1], "small", port=int(sys.argv[2]), key=sys.argv[3]):
            print("ready", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def service(drafter_url: str, port: int) -> Generator[subprocess.Popen[str]]:
    """The draft service in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(SERVICE), drafter_url, str(port), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def sent(load: Load, target: Engine, meanwhile: Callable[[], None] | None = None) -> Sent:
    """The load's answers; `meanwhile` is done a second after it began."""

    async def both() -> Sent:
        running = asyncio.create_task(run(load, to(target.url)))
        if meanwhile:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(meanwhile)
        return await running

    return asyncio.run(both())


def told(path: Path, target: Engine) -> dict[str, Any]:
    """The proposer's counters, after one more request."""
    time.sleep(1.1)
    sent(of_lengths("large", [20], 4, 1), target)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def home() -> EngineHome:
    return real_engine()


def test_answers_are_those_of_the_target_alone_whatever_dies(home: EngineHome, tmp_path: Path) -> None:
    small, large = tiny_models(home, ROOT / ".models")
    counted, port = tmp_path / "drafts.json", free_port()
    extra = target_environment(f"127.0.0.1:{port}", KEY, counted, always=True)
    counts = {1: 10, 32: 32}
    loads = {f"{most} in flight": of_lengths("large", spread(20, 4000, count), 24, most, most) for most, count in counts.items()}
    loads["the end of the context"] = end = of_lengths("large", [CONTEXT_TOKENS - 30, 40], 60, 2, 3)
    end.bodies[0]["max_tokens"] = 30
    busy = loads["many at once"] = of_lengths("large", [40] * 48, 64, 32, 5)
    with (
        engine(home, tmp_path, "small", small, wait=False) as drafter,
        engine(home, tmp_path / "alone", "large", large, PLAIN, wait=False) as alone,
        engine(home, tmp_path / "target", "large", large, [*PLAIN, *target_args(4)], extra, wait=False) as target,
    ):
        for each in (drafter, alone, target):
            each.until_ready()
        before = {name: sent(load, alone) for name, load in loads.items()}
        assert all(found.lost == 0 for found in before.values())

        def same(name: str, load: Load, meanwhile: Callable[[], None] | None = None) -> None:
            found = sent(load, target, meanwhile)
            assert found.lost == 0, name
            apart = partings(load, before[name], found)
            other, tied = asyncio.run(other_answers(apart, tie_at(alone.url), name))
            assert other == 0, name
            assert tied <= 2, "ties are rare"

        with service(drafter.url, port) as process:
            connected(counted, target, 0)
            for name, load in loads.items():
                same(name, load)
            first = told(counted, target)
            assert first["faults"] == 0, first
            assert 0.2 < first["accepted"] / first["drafted"] <= 1.0, first
            prompts = sum(len(body["prompt"]) for load in loads.values() for body in load.bodies)
            said = prompts + sum(load.tokens for load in loads.values()) + first["drafted"]
            assert first["sent_bytes"] + first["received_bytes"] < 1.5 * 4 * said, first
            same("many at once", busy, process.kill)
        after = told(counted, target)
        assert after["broken"] > first["broken"]
        with service(drafter.url, port):
            connected(counted, target, after["connections"])
            same("many at once", busy)
            assert told(counted, target)["drafted"] > after["drafted"]
            same("many at once", busy, drafter.kill)
            assert told(counted, target)["faults"] == 0
        same("many at once", busy)


def connected(counted: Path, target: Engine, connections: int) -> None:
    """Once the target has found the service, which it looks for by itself."""
    until = time.monotonic() + 90
    while told(counted, target)["connections"] == connections:
        assert time.monotonic() < until
