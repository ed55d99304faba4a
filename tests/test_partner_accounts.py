"""Accounts of a mode of two pools, end to end: a real server, a worker and its partner with fake engines, and known joules."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from batchsched.executors import counting, partnering
from batchsched.executors import partner as partner_module
from batchsched.executors import worker as worker_module
from batchsched.executors.meters import Choice, Reading
from batchsched.executors.worker import run_worker
from batchsched.queue import ledger, spending
from batchsched.server.instants import EARLIEST, LATEST
from batchsched.server.lookup import by_day, day_of
from batchsched.settings import Worker
from batchsched.wire import PREFIX
from tests.live import PATIENCE_S, LiveServer, live_server, requests
from tests.test_partner import a_partner, at, ready
from tests.test_partner import port as port

pytestmark = pytest.mark.slow
COUNT = 40
CONFIG = """
[sites.home]
zone = "NL"
[pools.new]
gpu = "cpu"
power_w = 10.0
[pools.old]
gpu = "cpu"
models = ["tiny"]
[models.tiny]
max_model_len = 256
[models.split]
variant_of = "tiny"
mode = "prefill_decode"
partner_pool = "old"
[planner]
solver = "greedy"
[server]
chunk_lines = 10
"""


class Rising:
    """A meter that rises at each reading, up to so many joules: in the end it is known what it saw, whatever time went by."""

    def __init__(self, most_j: float) -> None:
        self.most_j, self.energy_j = most_j, -most_j / 10  # nothing at the first reading

    def read(self) -> Reading:
        self.energy_j = min(self.most_j, self.energy_j + self.most_j / 10)
        return Reading(self.energy_j, "rapl")

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> tuple[Rising, Rising]:
    """Of the worker and of its partner, who look often."""
    mine, its = Rising(1000.0), Rising(500.0)
    monkeypatch.setattr(worker_module, "choose_meter", lambda *_, **__: Choice(mine, "known"))
    monkeypatch.setattr(partner_module, "choose_meter", lambda *_, **__: Choice(its, "known"))
    monkeypatch.setattr(partner_module, "LOOK_S", 0.05)
    monkeypatch.setattr(counting, "EVERY_S", 0.05)
    monkeypatch.setattr(partnering, "pause_after", lambda *_, **__: 0.1)
    return mine, its


async def done(server: LiveServer, meters: tuple[Rising, Rising], folder: Path, port: int) -> str:
    """A batch in the mode of two pools, and then a worker that has waited for some time and goes: the batch's id."""
    at_once = {"deadline": "1m", "on_deadline": "finish"}
    submitted: dict[str, Any] = await asyncio.to_thread(server.submit, requests(COUNT, model="split"), batchsched=at_once)
    batch, stop = submitted["id"], asyncio.Event()
    async with a_partner(folder, port):
        await ready(port)
        python, state = str(folder / "home/python"), str(folder / "worker")
        mine = Worker(server_url=server.url, engine_python=python, state_dir=state, partner_url=at(port))
        working = asyncio.create_task(run_worker(mine, "new", stop=stop))
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (await asyncio.to_thread(server.batch, batch))["status"] != "completed":
                    assert not working.done()
                    await asyncio.sleep(0.1)
                while any(meter.energy_j < meter.most_j for meter in meters):
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.5)
        finally:
            stop.set()
            assert await working == 0
    return str(batch)


async def test_all_figures_of_a_mode_add_up_to_the_joules_of_both_meters(
    tmp_path: Path, port: int, meters: tuple[Rising, Rising]
) -> None:
    with live_server(tmp_path / "server", CONFIG) as server:
        batch = await done(server, meters, tmp_path, port)
        report = server.get(f"{PREFIX}/batches/{batch}/report")
        (pool,) = [one for one in server.get(f"{PREFIX}/report/meters")["data"] if one["pool"] == "new"]
        assert pool["metered_j"] == pytest.approx(sum(meter.most_j for meter in meters))
        assert pool["unaccounted_j"] == pytest.approx(0.0, abs=1e-6)
        assert pool["charged_j"] == pytest.approx(report["energy_j"])
        assert pool["charged_j"] + pool["idle_j"] + pool["waste_j"] == pytest.approx(pool["metered_j"])
        for by in ("batch", "chunk", "pool", "tenant"):
            slices = server.get(f"{PREFIX}/report/slices", by=by, batch_id=batch)["data"]
            assert math.fsum(one["energy_j"] for one in slices) == pytest.approx(report["energy_j"])
            assert math.fsum(one["embodied_g"]["mid"] for one in slices) == pytest.approx(report["embodied_g"]["mid"])
        assert server.batch(batch)["batchsched"]["carbon"]["energy_j"] == pytest.approx(report["energy_j"])
        told = " ".join(server.get(f"{PREFIX}/batches/{batch}/explain")["sentences"])
        assert "It ran on pool new with split" in told
        with server.runtime.database.read() as connection:
            rows = ledger.of_batch(connection, batch)
            spent = spending.of_pools(connection, EARLIEST, LATEST)
        assert {row["beside_pool"] for row in rows} == {row["beside_pool"] for row in spent} - {""} == {"old"}
        kinds = {
            kind: math.fsum(row["beside_s"] for row in spent if row["kind"] == kind) for kind in ("metered", "idle", "waste")
        }
        assert kinds["metered"] == pytest.approx(math.fsum(row["beside_s"] for row in rows) + kinds["idle"] + kinds["waste"])
        assert kinds["idle"] > 0  # it waited with its worker
        # Of two machines alike the making is that of all their seconds; idle time is this batch's, which alone ran that day.
        (idle,) = [part for part in report["beside"] if part["part"] == "idle"]
        its_days = {day for _, day in +by_day(rows)}  # two where midnight was in between
        waited = [row for row in spent if row["kind"] == "idle" and day_of(row["hour"]) in its_days]
        idle_s = math.fsum(row["seconds"] + row["beside_s"] for row in waited)
        busy_s = math.fsum(row["busy_s"] + row["beside_s"] for row in rows)
        assert idle["embodied_g"]["mid"] / idle_s == pytest.approx(report["embodied_g"]["mid"] / busy_s)
