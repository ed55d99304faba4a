"""The search for lines that end engines: found by halving, with few deaths each, and no other line harmed."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from typing import Any, cast
from unittest.mock import patch

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.clock import RandomIds, SystemClock
from batchsched.executors import asking
from batchsched.executors.admission import Admission
from batchsched.executors.driver import Driver
from batchsched.executors.engine import AttachedEngine
from batchsched.executors.hunt import Hunt
from batchsched.executors.meters import Reading
from batchsched.executors.reporter import Reporter
from batchsched.executors.share import EnergyShare
from batchsched.executors.told import LeaseTold
from batchsched.executors.work import Outcome
from batchsched.fleet import ServedModel
from batchsched.lines import LineError, Request, parse
from batchsched.traces import OFF
from batchsched.wire import Lease, Result
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import as_line


class Meter:
    """Sees nothing."""

    def read(self) -> Reading:
        return Reading(0.0, "unmeasured")

    def close(self) -> None:
        """Nothing to do."""


class Kept:
    """In a reporter's place: keeps what it is given."""

    def __init__(self, lease: Lease) -> None:
        self.results: list[Result] = []
        self.told = LeaseTold(OFF, lease, SystemClock().now)

    def add(self, result: Result) -> None:
        self.results.append(result)


class Search:
    """A chunk at an engine that some of its lines end, leased again after each failure as a server would."""

    def __init__(self, prompts: list[str], width: int) -> None:
        lines = [as_line(f"c{number}", prompt) for number, prompt in enumerate(prompts, 1)]
        self.requests: list[tuple[int, Request | LineError]] = [(n, parse(line, n)) for n, line in enumerate(lines, 1)]
        self.engine, self.width = FakeEngine(delay_s=0.004), width
        self.results: dict[int, dict[str, Any]] = {}
        self.spent = self.leases = 0

    async def run(self) -> None:
        """To the end of the chunk."""
        runner, port = await serve_engine(self.engine)
        attached = AttachedEngine(f"http://127.0.0.1:{port}")
        await attached.start(ServedModel(), "tiny")
        try:
            async with aiohttp.ClientSession() as session:
                await self._work(attached, session)
        finally:
            await runner.cleanup()

    async def _work(self, attached: AttachedEngine, session: aiohttp.ClientSession) -> None:
        dead, suspects, erring, end = asyncio.Event(), list[int](), list[int](), ""
        share = EnergyShare(Meter(), SystemClock().now)
        driver = Driver(
            attached, session, share, RandomIds(), admission=Admission(self.width), request_timeout_s=60, on_change=dead.set
        )
        while end != "finished":
            self.leases += 1
            lease = Lease(
                "chunk", "b", self.leases, "/v1/chat/completions", "tiny", 1, len(self.requests), list(self.results),
                [*suspects, *erring], 1, erring=erring,
            )  # fmt: skip
            kept = Kept(lease)
            work = driver.add(lease, cast("Reporter", kept), self.requests)
            while not work.outcome.done():
                dead.clear()
                if driver.problem:
                    await driver.revive()
                waiting: set[asyncio.Future[Any]] = {work.outcome, asyncio.ensure_future(dead.wait())}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            outcome: Outcome = work.outcome.result()
            self.results |= {result.line: json.loads(bytes(result.output)) for result in kept.results}
            nearer = bool(outcome.suspects) and set(outcome.suspects) < set(suspects)
            self.spent += outcome.end == "failed" and not nearer and not outcome.set_aside
            suspects, erring, end = outcome.suspects, outcome.erring, outcome.end
            if driver.problem:
                await driver.revive()


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_any_one_or_two_are_found_with_few_deaths_and_no_other_line_becomes_an_error(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 48))
    guilty = data.draw(st.sets(st.integers(1, count), max_size=2))
    erring = data.draw(st.sets(st.integers(1, count), max_size=2)) - guilty  # these meet errors only, and are not hunted
    prompts = [
        f"n{number}" + " [[poison]]" * (number in guilty) + " [[500]]" * (number in erring) for number in range(1, count + 1)
    ]
    search = Search(prompts, width=data.draw(st.sampled_from([4, 16, 64])))
    with patch.object(asking, "_FIRST_PAUSE_S", 0):
        asyncio.run(search.run())
    assert set(search.results) == set(range(1, count + 1))
    assert {line for line, output in search.results.items() if output["error"]} == guilty
    refused = {line for line, output in search.results.items() if (output["response"] or {}).get("status_code") == 500}
    assert refused == erring
    assert {output["error"]["code"] for output in search.results.values() if output["error"]} <= {"engine_crash"}
    assert search.engine.deaths >= len(guilty) + bool(guilty)
    assert search.engine.deaths <= len(guilty) * (math.ceil(math.log2(count)) + 2)
    assert search.spent <= len(guilty) + bool(erring)


def test_each_round_takes_half_and_the_likeliest_last() -> None:
    hunt = Hunt[int]()
    hunt.suspect(range(10))
    seen: list[list[int]] = []
    while hunt:
        hunt.begin()
        seen.append([hunt.sent() for _ in itertools.takewhile(lambda _: hunt.coming is not None, itertools.count())])
    assert seen == [[0, 1, 2, 3, 4], [5, 6], [7], [8], [9]]


def test_what_was_put_back_is_tried_again_before_the_rest() -> None:
    hunt = Hunt[int]()
    hunt.suspect(range(4))
    hunt.begin()
    first = hunt.sent()
    hunt.put_back(first)
    assert (len(hunt), hunt.coming) == (4, None)
    hunt.begin()
    assert list(hunt) == [0, 1, 2, 3]
    assert [hunt.sent(), hunt.sent()] == [0, 1]
    assert hunt.acquit() == [2, 3]
    assert not hunt
