"""The plan as operators see it: shown, drawn, asked what if, frozen, replayed; by the server, the SDK and the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.cli.plan import stretches
from batchsched.cli.plan_picture import picture
from batchsched.client import AsyncClient, Client
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, requests, wait_for

TWO_SITES = """
[sites.home]
zone = "DE"
[sites.far]
zone = "SE"
simulated = true
[pools.local]
gpu = "cpu"
site = "home"
[pools.distant]
gpu = "cpu"
count = 2
site = "far"
[models.tiny]
[planner]
solver = "greedy"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two pools and two batches that wait; no worker ever comes."""
    with live_server(tmp_path_factory.mktemp("plans"), TWO_SITES) as live:
        live.submit(requests(3000), batchsched={"deadline": "12h"})
        live.submit(requests(200), batchsched={"deadline": "30h", "sites": ["home"]})
        wait_for(lambda: len({a["batch_id"] for a in live.get(f"{PREFIX}/plan")["allotments"]}) == 2)
        yield live


def command(server: LiveServer, *words: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, [*words, "--server", server.url], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_has_an_entry_a_slot_goes_by_the_plans_slots(server: LiveServer) -> None:
    plan = server.get(f"{PREFIX}/plan")
    assert len(plan["slots"]) > 24
    for pool in plan["pools"]:
        assert len(pool["capacity"]) == len(pool["intensity_g_per_kwh"]) == len(plan["slots"])
    assert all(a["start_at"] in plan["slots"] and a["seconds"] > 0 for a in plan["allotments"])


def test_show_draws_pools_and_zones_and_says_who_runs_where(server: LiveServer) -> None:
    said = command(server, "plan", "show")
    lines = {line.split()[0]: line for line in said.split("Pools:")[0].splitlines() if line.strip()}
    assert "█" in lines["distant"] or "▓" in lines["distant"]
    assert "g/kWh" in lines["SE"]
    assert "far (simulated)" in said
    who = said.split("Who runs where:")[1].splitlines()
    assert 2 <= len([line for line in who if line.startswith("batch_")]) <= 6


def test_the_picture_is_an_image_of_the_asked_kind(server: LiveServer, tmp_path: Path) -> None:
    command(server, "plan", "show", "--plot", str(tmp_path / "plan.png"))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with Client(server.url) as client:
        drawn = client.plans.plot("svg")
    assert b"distant" not in drawn[:100]
    assert b"<svg" in drawn
    assert server.http.get(f"{PREFIX}/plan/plot", params={"format": "gif"}).status_code == 400

    async def twin() -> bytes:
        async with AsyncClient(server.url) as client:
            return await client.plans.plot("svg")

    assert b"<svg" in asyncio.run(twin())


def _plan(shares: list[float], capacity: list[float]) -> dict[str, Any]:
    slots = [f"2026-05-01T{hour:02}:00:00Z" for hour in range(len(shares) + 1)]
    return {
        "slots": slots[:-1],
        "end_at": slots[-1],
        "allotments": [
            {"batch_id": "b", "pool": "p", "start_at": slots[t], "end_at": slots[t + 1], "requests": 1.0, "seconds": 3600 * share}
            for t, share in enumerate(shares)
            if share
        ],
        "pools": [{"name": "p", "zone": "Z", "capacity": capacity, "intensity_g_per_kwh": [100.0, 200.0, None, 400.0, 100.0]}],
    }


def test_a_column_is_as_dark_as_its_pool_is_busy() -> None:
    drawn = picture(_plan([1.0, 0.5, 0.0, 0.0, 0.25], [1.0, 1.0, 1.0, 0.0, 1.0]), 44)
    pool, zone = drawn[1][3:], drawn[2][3:]
    columns = len(pool.rstrip()) // 5
    assert [pool[columns * hour] for hour in range(5)] == ["█", "▒", "·", " ", "░"]
    assert [zone[columns * hour] for hour in range(5)] == ["▁", "▃", "?", "█", "▁"]
    assert zone.endswith("100-400 g/kWh")


def test_adjoining_allotments_are_one_stretch() -> None:
    found = stretches(_plan([1.0, 0.5, 0.0, 1.0, 0.25], [1.0] * 5)["allotments"])
    assert [(row["start_at"].hour, row["end_at"].hour, row["requests"]) for row in found] == [(0, 2, 2.0), (3, 5, 2.0)]
