"""What a meter saw goes somewhere to the joule: to chunks, or apart as idle, wasted or others'."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.executors.meters import Reading
from batchsched.executors.share import EnergyShare
from batchsched.fleet import Pool
from batchsched.queue import spending, workers
from batchsched.queue.database import Database
from batchsched.wire import Meter, Spent, SpentKind, SpentPart
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.test_executors_driver import working

AT = datetime(2026, 5, 1, 12, 59, 58, tzinfo=UTC)


class Ticking:
    """A meter that goes up by as much as it is told before each reading."""

    joules = host_joules = beside_s = 0.0
    beside_pool = ""

    def read(self) -> Reading:
        return Reading(self.joules, "rapl", self.host_joules, "modelled", "", self.beside_s, self.beside_pool)

    def close(self) -> None:
        pass


class Hand:
    """Does things to a share, and keeps what chunks were charged and what was told."""

    def __init__(self) -> None:
        self.meter = Ticking()
        self.share = EnergyShare(self.meter, lambda: AT)
        self.charged: list[float] = []
        self.charged_beside_s: list[float] = []
        self.told: list[SpentPart] = []
        share = self.share
        self.steps: dict[str, Callable[[str, int], object]] = {
            "open": lambda key, _: share.open(key, f"batch_{key}"),
            "close": lambda key, _: share.close(key),
            "add": share.add,
            "busy": lambda _, number: share.busy(number > 25),
            "starting": lambda _, __: share.starting(),
            "started": lambda _, __: self._charge(share.started(1.0)),
            "stopped": lambda _, __: share.stopped(),
            "saw": lambda _, number: share.saw(100.0 * number),
            "take": lambda key, _: self._charge(share.take(key)),
            "lose": lambda key, _: share.give_back(key, share.take(key)),
            "tell": lambda _, __: self.told.extend(share.spent()),
        }

    def _charge(self, meter: Meter | None) -> None:
        self.charged.append(meter.energy_j + meter.host_j if meter else 0.0)
        self.charged_beside_s.append(meter.beside_s if meter else 0.0)


STEPS = st.lists(st.tuples(st.sampled_from(sorted(Hand().steps)), st.sampled_from("abc"), st.integers(0, 50)), max_size=60)


def _balance(parts: list[SpentPart]) -> float:
    return math.fsum(part.energy_j if part.kind == "metered" else -part.energy_j for part in parts)


@given(STEPS)
def test_everything_metered_is_charged_or_told_apart(steps: list[tuple[str, str, int]]) -> None:
    hand = Hand()
    for number, (step, key, amount) in enumerate(steps):
        hand.meter.joules += number % 7
        hand.meter.host_joules += number % 3
        hand.meter.beside_s += number % 5
        hand.steps[step](key, amount)
    for key in "abc":
        hand.share.close(key)
    hand.share.stopped()
    hand.told += hand.share.spent()
    assert _balance(hand.told) == pytest.approx(math.fsum(hand.charged))
    beside_s = [part.beside_s if part.kind == "metered" else -part.beside_s for part in hand.told]
    assert math.fsum(beside_s) == pytest.approx(math.fsum(hand.charged_beside_s))


def test_the_host_is_told_under_its_own_source() -> None:
    meter = Ticking()
    share = EnergyShare(meter, lambda: AT)
    meter.joules, meter.host_joules = 10.0, 4.0
    parts = {(part.kind, part.energy_source): part for part in share.spent()}
    assert {name: part.energy_j for name, part in parts.items()} == {
        ("metered", "rapl"): 10.0,
        ("metered", "modelled"): 4.0,
        ("idle", "rapl"): 10.0,
        ("idle", "modelled"): 4.0,
    }
    assert parts["idle", "rapl"].seconds > parts["idle", "modelled"].seconds == 0  # time is counted once


def test_seconds_of_each_other_pool_are_told_as_its_own() -> None:
    meter = Ticking()
    share = EnergyShare(meter, lambda: AT)
    meter.beside_pool, meter.beside_s = "old", 30.0
    share.busy(True)
    meter.beside_pool, meter.beside_s = "older", 40.0
    told = {(part.kind, part.beside_pool): part.beside_s for part in share.spent()}
    assert told == {("metered", "old"): 30.0, ("idle", "old"): 30.0, ("metered", "older"): 10.0, ("idle", "older"): 10.0}


def test_idle_time_lost_work_and_vain_starts_have_their_names() -> None:
    meter = Ticking()
    share = EnergyShare(meter, lambda: AT)
    meter.joules = 10.0
    share.open("a", "batch_1")
    meter.joules = 25.0
    share.give_back("a", share.take("a"))
    share.close("a")
    share.starting()
    meter.joules = 32.0
    share.stopped()
    told = {(part.kind, part.batch_id): part.energy_j for part in share.spent()}
    assert told == {("metered", ""): 32.0, ("idle", ""): 10.0, ("waste", "batch_1"): 15.0, ("waste", ""): 7.0}


def told(server: FakeServer) -> dict[SpentKind, float]:
    """Joules by kind, each message once, as the real server counts them."""
    said: dict[int, Spent] = {}
    for message in server.heard("heartbeat"):
        if message.spent:
            said[message.spent.number] = message.spent
    for message in server.heard("bye"):
        said |= {spent.number: spent for spent in message.spent}
    sums: dict[SpentKind, float] = {}
    for spent in said.values():
        for part in spent.parts:
            sums[part.kind] = sums.get(part.kind, 0.0) + part.energy_j
    return sums


def charged_j(server: FakeServer) -> float:
    """What chunks took; a message that came twice counts once, as in the ledger."""
    return math.fsum({meter.started_at: meter.energy_j for chunk in server.chunks for meter in chunk.meters if meter}.values())


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [{}, {"results": ["lose answer", 500]}, {"heartbeat": ["lose answer", 500]}])
async def test_a_workers_words_add_up_to_its_meter(tmp_path: Path, trouble: dict[str, list[Any]]) -> None:
    server = FakeServer(
        [f"a{number} [[slow 0.05]]" for number in range(40)], pool=Pool(power_w=100, max_in_flight=4), chunk_lines=10
    )
    server.trouble |= trouble
    async with working(server, tmp_path):
        await server.until_done()
    sums = told(server)
    assert sums["metered"] > 10
    assert sums["metered"] == pytest.approx(charged_j(server) + sums["idle"] + sums.get("waste", 0.0), abs=1e-6)
    assert "others" not in sums


@pytest.mark.slow
async def test_what_a_stolen_lease_took_is_told_as_waste_of_its_batch() -> None:
    pool = Pool(power_w=100)
    server, engine = FakeServer(["a [[slow 0.4]]", "b [[slow 30]]"], pool=pool), FakeEngine()
    async with working(server, engine):
        await server.until(lambda: engine.in_flight == 1)
        server.steal(server.chunks[0])
        await server.until(lambda: server.heard("heartbeat") and not server.heard("heartbeat")[-1].leases)
    wasted = [part for message in server.heard("bye") for spent in message.spent for part in spent.parts if part.kind == "waste"]
    wasted += [part for beat in server.heard("heartbeat") if beat.spent for part in beat.spent.parts if part.kind == "waste"]
    assert {part.batch_id for part in wasted} == {"batch_1"}


def test_a_message_that_comes_twice_counts_once(database: Database) -> None:
    def part(kind: SpentKind, energy_j: float, batch_id: str = "", beside_pool: str = "") -> SpentPart:
        return SpentPart(kind, batch_id, AT, 2.0, energy_j, "rapl", beside_pool, 1.5 if beside_pool else 0.0)

    first = Spent(1, [part("metered", 30.0), part("idle", 20.0), part("waste", 10.0, "batch_1")])
    second = Spent(2, [part("metered", 5.0), part("idle", 5.0)])
    with database.write() as connection:
        for worker_id in ("w1", "w2"):
            workers.add(connection, id=worker_id, now=AT, pool="p", host="h", pid=1, protocol=2, version="")
        for said in ([first], [first, second], [second], [first]):
            spending.add(connection, "w1", said)
        spending.add(connection, "w2", [first])
        spending.add(connection, "nobody", [first])
    with database.read() as connection:
        hour = AT.replace(minute=0, second=0)
        rows = spending.of_pools(connection, hour, AT)
        assert {(row["pool"], row["hour"], row["kind"]): (row["seconds"], row["energy_j"]) for row in rows} == {
            ("p", hour, "metered"): (6.0, 65.0),
            ("p", hour, "idle"): (6.0, 45.0),
            ("p", hour, "waste"): (4.0, 20.0),
        }
        assert [row["energy_j"] for row in spending.of_batch(connection, "batch_1")] == [20.0]
    with database.write() as connection:
        beside = [part("idle", 1.0, "", pool) for pool in ("old", "old", "older", "")]
        spending.add(connection, "w2", [Spent(2, [*beside, part("waste", 1.0, "batch_1", "old")])])
    with database.read() as connection:
        idle = [row for row in spending.of_pools(connection, hour, AT) if row["kind"] == "idle"]
        assert {row["beside_pool"]: (row["energy_j"], row["beside_s"]) for row in idle} == {
            "": (49.0, 0.0), "old": (0.0, 3.0), "older": (0.0, 1.5),
        }  # fmt: skip
        assert {row["seconds"] for row in idle if row["beside_pool"]} == {0.0}
        lost = {row["beside_pool"]: (row["energy_j"], row["beside_s"]) for row in spending.of_batch(connection, "batch_1")}
        assert lost == {"": (21.0, 0.0), "old": (0.0, 1.5)}
        assert spending.of_pools(connection, AT, AT.replace(hour=14)) == []


def test_the_idle_watts_of_a_pool_are_those_of_the_workers_that_are_there(database: Database) -> None:
    with database.write() as connection:
        for number, (pool, idle_w) in enumerate(
            [("mixed", 90.0), ("mixed", 0.0), ("own", 80.0), ("silent", 70.0), ("unknown", None)]
        ):
            workers.add(connection, id=f"w{number}", now=AT, pool=pool, host="h", pid=1, protocol=2, version="", idle_w=idle_w)
        workers.add(
            connection, id="killed", now=AT - 2 * workers.SILENT, pool="own", host="h", pid=1, protocol=2, version="", idle_w=9.0
        )
        assert workers.idle_power(connection) == {"mixed": 45.0, "own": 80.0, "silent": 70.0}
        workers.bye(connection, "w1", AT)
        workers.bye(connection, "w3", AT)
        assert workers.idle_power(connection) == {"mixed": 90.0, "own": 80.0, "silent": 70.0}
