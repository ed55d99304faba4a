"""What is in flight is counted right, whenever it is broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from batchsched.clock import RandomIds
from batchsched.executors import asking, signals, vitals
from batchsched.executors import driver as driver_module
from batchsched.executors.admission import Admission
from batchsched.executors.driver import Driver
from batchsched.executors.link import IDLE_S
from batchsched.executors.reporter import Reporter
from batchsched.executors.spare.port import Answer
from batchsched.lines import parse
from batchsched.wire import Lease
from tests.fake_server import as_line
from tests.live import PATIENCE_S
from tests.test_executors_flow import Instant
from tests.test_executors_hunt import Kept


class Open:
    """A gate that lets all in."""

    priority = 0

    def __init__(self) -> None:
        self.push_out: Any = None

    def bind(self, on_room: Any, push_out: Any) -> None:
        self.push_out = push_out

    def asks(self, prompt_tokens: float, answers: int = 1) -> Answer:
        return Answer.GO

    def enters(self, prompt_tokens: float, answers: int = 1, prompts: int = 1) -> int:
        return 1

    def leaves(self, ticket: int, read: int = 0, written: int = 0) -> None:
        """Nothing is kept."""

    def lost_tokens(self, ticket: int) -> int:
        return 0

    def idle(self, nothing_to_send: bool) -> None:
        """Nothing waits."""


class Plain(Instant):
    """It answers at once, after it has turned us away so many times, and tells of nothing but its health."""

    busy_times = 0

    def last_words(self) -> str:
        return ""

    @asynccontextmanager
    async def get(self, url: str, **given: Any) -> AsyncGenerator[Any]:
        await asyncio.sleep(0)
        yield SimpleNamespace(status=200 if url.endswith("/health") else 404)

    @asynccontextmanager
    async def post(self, url: str, **given: Any) -> AsyncGenerator[Any]:
        async with super().post(url, **given) as answer:
            answer.status = 503 if self.busy_times > 0 else 200
            self.busy_times -= 1
            yield answer


def driven(
    admission: Admission, gate: Open | None = None, busy_times: int = 0, on_change: Callable[[], None] = lambda: None
) -> Driver:
    """At such an engine."""
    end: Any = Plain(b'{"id": "x", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}')
    end.busy_times = busy_times
    share: Any = SimpleNamespace(busy=lambda _: None, waste=lambda *_: None)
    return Driver(end, end, share, RandomIds(), admission=admission, request_timeout_s=10, on_change=on_change, gate=gate)


def added(
    driver: Driver, count: int, suspects: tuple[int, ...] = (), prompts: Sequence[str] = (), erring: tuple[int, ...] = ()
) -> tuple[Any, Kept]:
    """A chunk of so many lines."""
    endpoint, said = "/v1/completions", prompts or ["z"] * count
    told = [*suspects, *erring]
    lease = Lease("c", "b", 1, "/v1/completions", "tiny", 1, count, [], told, 1, erring=list(erring))
    kept = Kept(lease)
    lines = [(number, parse(as_line(f"c{number}", prompt, endpoint=endpoint), number)) for number, prompt in enumerate(said, 1)]
    return driver.add(lease, cast("Reporter", kept), lines), kept


async def test_a_chunk_that_is_lost_at_once_leaves_nothing_in_flight() -> None:
    admission = Admission(4)
    driver = driven(admission)
    lost, _ = added(driver, 8)
    driver.lose(lost)  # before any of its requests went out
    async with asyncio.timeout(PATIENCE_S):
        work, kept = added(driver, 8, suspects=(1, 2))  # wait until the engine has run empty
        await work.outcome
    assert len(kept.results) == 8
    assert (admission.requests, admission.tokens) == (0, 0)


async def test_a_line_that_makes_room_as_the_engine_dies_is_not_asked_twice() -> None:
    gate, admission = Open(), Admission(4)
    driver = driven(admission, gate)
    work, kept = added(driver, 4)
    await asyncio.sleep(0)
    assert all(line.asking for line in work.open.values())
    gate.push_out(2)
    driver._vitals.die("The engine was stopped.", blame=False)  # pyright: ignore[reportPrivateUsage]
    await asyncio.sleep(0.01)
    assert (work.left, admission.requests) == (4, 0)
    async with asyncio.timeout(PATIENCE_S):
        await driver.revive()
        await work.outcome
    assert sorted(result.line for result in kept.results) == [1, 2, 3, 4]


async def test_a_line_that_is_turned_away_for_hours_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_FIRST_PAUSE_S", 0)
    work, kept = added(driven(Admission(1), busy_times=1100), 1)
    async with asyncio.timeout(PATIENCE_S):
        await work.outcome
    assert [result.ok for result in kept.results] == [True]


async def test_what_was_seen_of_an_engine_before_it_began_anew_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> bool:
        await looked.wait()
        return False

    monkeypatch.setattr(vitals, "healthy", slow)
    end: Any = Plain(b"")
    life = vitals.Vitals(end, end, lambda *_: None)
    asked = asyncio.create_task(life.well())
    await asyncio.sleep(0)
    life.die("It was swapped.")
    life.revive()
    looked.set()
    assert await asked
    assert not await life.well()


async def test_a_chore_that_failed_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(signals, "ANEW_AFTER_S", 0)
    turns, second = [ValueError("a bug"), None], asyncio.Event()

    async def chore() -> None:
        if problem := turns.pop(0):
            raise problem
        second.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(signals.kept_up(chore))
    async with asyncio.timeout(PATIENCE_S):
        await second.wait()
    task.cancel()
    assert "a bug" in caplog.text


async def test_a_line_that_the_worker_cannot_handle_is_given_up_alone_in_the_second_attempt() -> None:
    driver = driven(Admission(1))

    def bug(body: bytes) -> bytes:
        if b'"y"' in body:
            raise AttributeError("a bug")
        return body

    driver._engine.dialect.asked = bug  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]
    prompts = ["z", "y", "z"]
    work, kept = added(driver, 3, prompts=prompts)
    outcome = await work.outcome
    assert (outcome.end, outcome.suspects, outcome.erring) == ("failed", [], [2])
    work, kept = added(driver, 3, erring=(2,), prompts=prompts)
    assert (await work.outcome).end == "finished"
    assert sorted((result.line, result.ok) for result in kept.results) == [(1, True), (2, False), (3, True)]
    (said,) = [bytes(result.output) for result in kept.results if not result.ok]
    assert b'"worker_error"' in said
    assert b"a bug" in said


async def test_a_failure_of_ours_keeps_the_search_for_a_line_that_ends_engines_where_it_is() -> None:
    driver = driven(Admission(4))

    def bug(body: bytes) -> bytes:
        raise AttributeError("a bug")

    driver._engine.dialect.asked = bug  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]
    work, _ = added(driver, 6, suspects=(5, 3, 1), erring=(6,))
    outcome = await work.outcome
    assert (outcome.end, outcome.suspects, outcome.erring) == ("failed", [3, 1], [5, 6])


async def test_room_for_results_may_mean_room_for_a_chunk() -> None:
    changed: list[bool] = []
    driver = driven(Admission(4), on_change=lambda: changed.append(driver.wants_more()))
    driver.backlog.grow(driver_module.MOST_UNSENT_BYTES)
    assert not driver.wants_more()
    driver.backlog.shrink(1)
    assert changed == [True]


def test_connections_are_let_go_before_servers_close_them() -> None:
    assert uvicorn.Config("app").timeout_keep_alive > IDLE_S
