"""The books of a batch: entries that are only ever added, and that add up to what is known."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from batchsched import Client
from batchsched.carbon.books import Posting, corrections, lines
from batchsched.carbon.ledger import account
from batchsched.carbon.report import Intensity
from batchsched.cli.main import cli
from batchsched.errors import Conflict
from batchsched.queue import batches, books
from batchsched.queue.database import Database
from tests.live import BASIC, live_server, requests, wait_for
from tests.test_carbon_ledger import DIRECT, KWH, NOW, entry, truth
from tests.test_queue_contract import LATER, add_batch


class Grid:
    """What is known of the zone DE, by hour, changing as a test goes on."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}

    def __call__(self, zone: str, start: Any, end: Any) -> Intensity:
        mean = self.known.get(start.hour)
        return Intensity(mean, "realised" if mean else "forecast", DIRECT)


def test_corrections_are_entries_of_their_own() -> None:
    grid = Grid()
    work = [entry(), entry(0.5), entry(1)]  # 12:00 and 12:30, and 13:00
    grid.known = {12: 400.0}
    first = corrections(work, [], grid, [])
    assert [(each.hour.hour, each.energy_j, each.grams, each.why) for each in first] == [
        (12, 2 * KWH, pytest.approx(960), "the batch ended"),
        (13, KWH, None, "the batch ended"),
    ]
    assert corrections(work, [], grid, first) == []
    grid.known = {12: 350.0, 13: 100.0}
    second = corrections(work, [], grid, first)
    assert [(each.energy_j, each.why) for each in second] == [
        (0.0, "the intensity was revised"),
        (0.0, "the intensity became known"),
    ]
    assert [each.grams for each in second] == pytest.approx([-120, 120])
    assert [each.intensity_g_per_kwh for each in second] == pytest.approx([350, 100])
    late = corrections([*work, entry(1)], [], grid, first + second)
    assert [(each.energy_j, each.why) for each in late] == [(KWH, "work was charged late")]
    assert [each.grams for each in late] == pytest.approx([120])
    grid.known = {}  # a feed that forgets takes nothing back
    assert corrections([*work, entry(1)], [], grid, first + second + late) == []


def test_what_was_booked_stays_where_it_was() -> None:
    first = corrections([entry()], [], truth, [])
    assert corrections([entry(zone="SE", pue=2.0, site="north")], [], truth, first) == []


def test_too_few_joules_to_divide_by_are_booked_all_the_same() -> None:
    (only,) = corrections([entry(energy_j=5e-324)], [], truth, [])
    assert (only.energy_j, only.intensity_g_per_kwh) == (5e-324, 400)


def test_waste_and_unmeasured_work_have_lines_of_their_own() -> None:
    first = corrections([entry(), entry(energy_source="unmeasured", energy_j=0.0)], [entry(energy_j=KWH / 2)], truth, [])
    assert {(each.kind, each.energy_source): (each.energy_j, each.grams) for each in first} == {
        ("work", "nvml_counter"): (KWH, pytest.approx(480)),
        ("work", "unmeasured"): (0.0, None),
        ("waste", "nvml_counter"): (KWH / 2, pytest.approx(240)),
    }


PARTS = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e9)), max_size=6)
GRIDS = st.lists(st.dictionaries(st.integers(12, 16), st.floats(1, 1000)), min_size=1, max_size=5)


@given(PARTS, GRIDS)
def test_the_books_add_up_to_what_is_known(parts: list[tuple[int, float]], grids: list[dict[int, float]]) -> None:
    grid = Grid()
    booked: list[Posting] = []
    work = [entry(hour, energy_j=energy_j) for hour, energy_j in parts]
    for end, known in enumerate(grids, 1):
        grid.known |= known
        booked += corrections(work[: max(1, len(work) * end // len(grids))], [], grid, booked)
    report = account(work, grid, None)
    stands = lines(booked).values()
    assert math.fsum(line.energy_j for line in stands) == pytest.approx(report.energy_j)
    grams = [line.grams for line in stands if line.grams is not None]
    assert math.fsum(grams) == pytest.approx(report.operational_g or 0.0)
    assert len({posting.key for posting in booked if posting.why == "the batch ended"}) == len(stands)


def test_entries_are_numbered_and_two_servers_cannot_both_write(database: Database) -> None:
    add_batch(database)
    entries = [
        {name: getattr(each, name) for name in Posting.__struct_fields__} for each in corrections([entry()], [], truth, [])
    ]
    with database.write() as connection:
        assert books.due(connection, LATER, 9) == []
        for state in ("finalizing", "completed"):
            batches.move(connection, "b", state, NOW)
        assert books.due(connection, NOW, 9) == ["b"]
        books.add(connection, "b", 0, entries, NOW, LATER)
    with pytest.raises(Conflict), database.write() as connection:
        books.add(connection, "b", 0, entries, NOW, LATER)
    with database.write() as connection:
        books.add(connection, "b", 1, entries, LATER, None)
        assert [(row["number"], row["posted_at"]) for row in books.of_batch(connection, "b")] == [(1, NOW), (2, LATER)]
        assert books.due(connection, LATER + timedelta(days=99), 9) == []


def test_an_ended_batch_gets_its_books(tmp_path: Path) -> None:
    with live_server(tmp_path, server__chunk_lines=2) as server:
        batch_id = server.submit(requests(4))["id"]
        server.worker().drain(batch_id)
        path = f"/v1/batchsched/batches/{batch_id}/books"
        found = wait_for(lambda: (said := server.get(path))["entries"] and said)
        report = server.get(f"/v1/batchsched/batches/{batch_id}/report")
        assert found["energy_j"] == pytest.approx(report["energy_j"])
        assert found["grams"] == pytest.approx(report["operational_g"])
        assert {each["why"] for each in found["entries"]} == {"the batch ended"}
        assert server.http.get("/v1/batchsched/batches/batch_none/books").status_code == 404
        printed = CliRunner().invoke(cli, ["report", batch_id, "--books", "--server", server.url], catch_exceptions=False)
        assert "the batch ended" in printed.output
        with Client(server.url) as client:
            assert client.batches.books(batch_id).energy_j == found["energy_j"]


def test_a_grid_that_nobody_knows_yet_leaves_joules_without_grams(tmp_path: Path) -> None:
    with live_server(tmp_path, BASIC.replace("WORLD", "NOWHERE")) as server, Client(server.url) as client:
        batch_id = server.submit(requests(4), batchsched={"deadline": "1s", "on_deadline": "finish"})["id"]
        server.worker().drain(batch_id)
        wait_for(lambda: client.batches.books(batch_id).entries)
        found = client.batches.books(batch_id)
        assert found.grams is None
        assert found.unknown_energy_j == pytest.approx(found.energy_j)
        assert found.energy_j > 0
