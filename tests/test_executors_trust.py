"""Nothing is sent once the leases may be over, however late that turns out."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import aiohttp

from batchsched.clock import RandomIds, SystemClock
from batchsched.executors.admission import Admission
from batchsched.executors.driver import Driver
from batchsched.executors.engine import AttachedEngine
from batchsched.executors.reporter import Reporter
from batchsched.executors.share import EnergyShare
from batchsched.fleet import ServedModel
from batchsched.lines import parse
from batchsched.wire import Lease
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import as_line
from tests.live import PATIENCE_S
from tests.test_executors_hunt import Kept, Meter


class Drowsy(aiohttp.TCPConnector):
    """The process sleeps while it connects for the first request: when it wakes, its leases are over."""

    driver: Driver
    slept: asyncio.Event | None = None

    async def connect(self, *args: Any, **options: Any) -> Any:
        made = await super().connect(*args, **options)
        if self.slept is not None and not self.slept.is_set():
            self.driver.trust(time.monotonic() - 1)
            self.slept.set()
        return made


async def test_a_request_that_was_on_its_way_out_while_the_process_slept_is_not_sent() -> None:
    engine = FakeEngine()
    runner, port = await serve_engine(engine)
    attached = AttachedEngine(f"http://127.0.0.1:{port}")
    await attached.start(ServedModel(), "tiny")
    connector = Drowsy()
    share = EnergyShare(Meter(), SystemClock().now)
    lease = Lease("c", "b", 1, "/v1/chat/completions", "tiny", 1, 1, [], [], 1)
    kept = Kept(lease)
    try:
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(PATIENCE_S):
            connector.driver = driver = Driver(
                attached, session, share, RandomIds(), admission=Admission(4), request_timeout_s=60, on_change=lambda: None
            )
            connector.slept = asyncio.Event()
            work = driver.add(lease, cast("Reporter", kept), [(1, parse(as_line("c1", "hello"), 1))])
            await connector.slept.wait()
            (line,) = work.open.values()
            while line.asking:
                await asyncio.sleep(0)
            assert not engine.computed
            assert line.tries == 0
            driver.trust(time.monotonic() + 60)
            await work.outcome
    finally:
        await runner.cleanup()
    assert engine.computed.total() == 1
    assert [result.ok for result in kept.results] == [True]
