"""Slices over many batches: they say what each says alone, in as many statements for few as for many; none is left out unsaid."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.queue import ledger, tables
from batchsched.queue.tenancy import ANY
from batchsched.server.instants import EARLIEST, LATEST
from batchsched.server.runtime import Runtime
from tests.live import LiveServer
from tests.test_dividing import sums
from tests.test_report_of_many import AT, BATCHES, counted, server  # noqa: F401 - the fixture  # pyright: ignore[reportUnusedImport]

DAY = timedelta(days=1)


def _keep(runtime: Runtime) -> None:
    """Files, chunks, hosts and meters for the batches of the fixture; one input is shared, one result was deleted."""
    place = {"lines": 30, "suspects": [], "parts": [], "state": "done", "completed": 30, "round": 0}
    file = {"tenant": "default", "sha256": "", "bytes": 10**8}
    with runtime.database.write() as connection:
        results = [
            {**file, "id": f"o{n}", "purpose": "batch_output", "filename": f"b{n}_output.jsonl", "created_at": AT + DAY}
            for n in range(1, BATCHES)
        ]
        connection.execute(insert(tables.files), [{**file, "id": "f", "purpose": "batch", "filename": "f", "created_at": AT}])
        connection.execute(insert(tables.files), results)
        gone = {"id": "o0", "tenant": "default", "batch_id": "b0", "bytes": 10**8, "created_at": AT, "deleted_at": AT + 3 * DAY}
        connection.execute(insert(tables.tombstones).values(**gone))
        chunks = [
            {
                **place, "id": f"b{n}-{part}", "batch_id": f"b{n}", "position": part, "first_line": 1 + 30 * part,
                "byte_start": 0, "byte_end": 1000 * (part + 1), "pool": "new" if part % 2 else "old", "result_bytes": 10 * n,
            }
            for n in range(BATCHES) for part in range(4)
        ]  # fmt: skip
        connection.execute(insert(tables.chunks), chunks)
        there = {"pid": 1, "registered_at": AT, "seen_at": AT + 9 * DAY, "ready_models": []}
        hosts = [{**there, "id": f"w{n}", "pool": pool, "host": f"h{n}"} for n, pool in enumerate(["old", "new", "new"])]
        connection.execute(insert(tables.workers), hosts)
        told = [
            {"pool": "old", "hour": AT + n * timedelta(hours=1), "kind": kind, "batch_id": batch, "energy_source": "rapl"}
            for n in range(48)
            for kind, batch in (("idle", ""), ("waste", f"b{n % BATCHES}"))
        ]
        connection.execute(insert(tables.spending), [{**one, "seconds": 60.0, "energy_j": 5e4} for one in told])


@pytest.mark.slow
def test_all_at_once_say_what_each_says_alone(server: LiveServer) -> None:  # noqa: F811 - the fixture
    _keep(server.runtime)
    slices = server.runtime.breakdown.slices
    together = {found.name: found for found in slices(ANY, "batch", EARLIEST, LATEST)}
    assert len(together) == BATCHES
    for name, found in together.items():
        (alone,) = slices(ANY, "batch", EARLIEST, LATEST, name)
        assert sums([found]) == pytest.approx(sums([alone]), rel=1e-5)  # files are kept while we look
        beside: dict[str, tuple[float, float]] = {}
        for part in server.runtime.reports.report(name, ANY)["beside"]:
            joules, grams = beside.get(part["part"], (0.0, 0.0))
            beside[part["part"]] = joules + part["energy_j"], grams + (part["operational_g"] or 0.0)
        assert {"idle", "network", "storage", "waste"} <= beside.keys()
        for part, amounts in beside.items():
            of_slice = getattr(found, part)
            assert (of_slice.energy_j, of_slice.g) == pytest.approx(amounts, rel=1e-5), (name, part)


def test_grams_are_those_of_each_entry(server: LiveServer) -> None:  # noqa: F811 - the fixture
    """Entries are summed up only where nothing can tell their grids apart."""
    accounts = server.runtime.breakdown._accounts  # pyright: ignore[reportPrivateUsage]
    with server.runtime.database.read() as connection:
        rows = ledger.of_batch(connection, "b5")
    (found,) = server.runtime.breakdown.slices(ANY, "batch", EARLIEST, LATEST, "b5")
    alone = accounts.alone(rows, accounts.truth_since(AT))
    assert (found.operational_g, found.energy_j) == pytest.approx((alone.operational_g, alone.energy_j), rel=1e-9)
    assert found.energy_by_source == pytest.approx(alone.energy_by_source)


@pytest.mark.parametrize("by", ["batch", "tenant", "chunk"])
def test_statements_do_not_grow_with_the_batches(server: LiveServer, by: Any) -> None:  # noqa: F811 - the fixture
    _keep(server.runtime)
    breakdown, numbers = server.runtime.breakdown, list[int]()
    breakdown.slices(ANY, by, EARLIEST, LATEST)  # sizes are kept for a minute
    for hours in (1, BATCHES):
        with counted(server.runtime) as sent:
            found = breakdown.slices(ANY, by, AT, AT + timedelta(hours=hours))
        assert found
        numbers.append(len(sent))
    assert numbers[1] == numbers[0] < 20


def test_more_batches_than_it_takes_are_told_of(server: LiveServer) -> None:  # noqa: F811 - the fixture
    server.runtime.breakdown.most = 10
    with Client(server.url) as client:
        cut = client.slices("batch")
        assert {one.name for one in cut} == {f"b{n}" for n in range(BATCHES - 10, BATCHES)}
        (note,) = cut.notes
        assert "since 2026-05-02T06:59:00Z" in note
        assert "'from' and 'to'" in note
        assert client.slices("batch", end=AT + timedelta(hours=5)).notes == ()
        assert client.slices("chunk", batch_id="b0").notes == ()
    ran = CliRunner().invoke(cli, ["report", "--by", "pool", "--server", server.url], catch_exceptions=False)
    assert "Only the work since" in ran.output
