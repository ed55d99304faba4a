"""Whatever ran: finer slices add up to coarser ones, every figure by itself, and what no level can know stays unknown."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from batchsched.carbon.hardware import Range
from batchsched.carbon.parts import Part, Parts, together
from batchsched.carbon.report import Beside
from batchsched.carbon.slices import SUMS, Answered, Cost, Slice, shared
from batchsched.clock import ManualClock
from batchsched.queue import tables
from batchsched.queue.tenancy import ANY
from batchsched.server.breakdown import By
from batchsched.server.runtime import Runtime
from batchsched.settings import load
from batchsched.wire import EnergySource

DAY = datetime(2026, 5, 1, tzinfo=UTC)
END = DAY + timedelta(days=3)
SITES = """
[carbon]
home_site = "home"
[sites.home]
zone = "WORLD"
pue = 1.3
[sites.far]
zone = "WORLD"
pue = 1.1
[pools.here]
gpu = "T4"
[pools.there]
site = "far"
gpu = "cpu"
[pools.nameless]
site = "far"
gpu = "H200"
[models.tiny]
"""
POOLS = st.sampled_from(["here", "there", "nameless", "sold"])  # of one no figures are known, one is declared no more
JOULES = st.integers(0, 10**7).map(float)
SECONDS = st.integers(0, 3600).map(float)
SOURCES = st.sampled_from(get_args(EnergySource))


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    start = DAY + timedelta(minutes=draw(st.integers(0, 2 * 24 * 60)))
    end = start + timedelta(minutes=draw(st.integers(0, 60)))
    source, startup_s = draw(SOURCES), draw(st.sampled_from([0.0, 30.0]))
    return {
        "pool": draw(POOLS), "model": "tiny", "started_at": start, "ended_at": end,
        "busy_s": draw(SECONDS), "energy_j": 0.0 if source == "unmeasured" else draw(JOULES), "energy_source": source,
        "host_j": draw(st.sampled_from([0.0, 12345.6])), "host_source": "modelled", "startup_s": startup_s,
        "mark": "", "requests": draw(st.integers(0, 50)), "input_tokens": draw(st.integers(0, 9999)), "cached_tokens": 0,
        "output_tokens": draw(st.integers(0, 9999)),
    }  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    chunk = st.fixed_dictionaries(
        {"pool": st.none() | POOLS, "bytes": st.integers(0, 10**9), "entries": st.lists(entries(), max_size=4)}
    )
    return {
        "tenant": draw(st.sampled_from(["ann", "bob"])),
        "input_there": draw(st.booleans()),
        "output": draw(st.none() | st.integers(0, 10**9)),
        "erased": draw(st.sampled_from([False, False, True])),
        "chunks": draw(st.lists(chunk, min_size=1, max_size=3)),
    }


TOLD = st.tuples(POOLS, st.integers(0, 47), st.sampled_from(["metered", "idle", "waste"]), SOURCES, JOULES, SECONDS)
WORLDS = st.tuples(st.lists(batches(), min_size=1, max_size=3), st.lists(TOLD, max_size=6, unique_by=lambda told: told[:4]))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    """A server that does not run; its database is written by hand."""
    folder: Path = tmp_path_factory.mktemp("dividing")
    (folder / "batchsched.toml").write_text(SITES)
    flags = {"server.data_dir": str(folder / "data")}
    made = Runtime(load(folder / "batchsched.toml", env={}, flags=flags), clock=ManualClock(END))
    yield made
    made.leadership.stop()
    made.database.close()


def write(runtime: Runtime, world: tuple[list[dict[str, Any]], list[Any]]) -> None:
    """This world, and nothing of the one before."""
    made, told = world
    with runtime.database.write() as connection:
        for table in (tables.spending, tables.ledger, tables.chunks, tables.batches, tables.files):
            connection.execute(delete(table))

        def file(name: str, size: int) -> str:
            row = {"id": name, "tenant": "ann", "purpose": "batch", "filename": name, "sha256": ""}
            connection.execute(insert(tables.files).values(**row, bytes=size, created_at=DAY))
            return name

        for number, batch in enumerate(made):
            name = f"batch_{number}"
            row: dict[str, Any] = {
                "id": name, "tenant": batch["tenant"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "input_file_id": file(f"in_{number}", 10**9) if batch["input_there"] else "gone", "state": "completed",
                "output_file_id": None if batch["output"] is None else file(f"out_{number}", batch["output"]),
                "erased_at": DAY if batch["erased"] else None, "created_at": DAY, "deadline_at": END, "meta": {}, "options": {},
            }  # fmt: skip
            connection.execute(insert(tables.batches).values(**row))
            for position, chunk in enumerate(batch["chunks"]):
                key = {"batch_id": name, "id": f"{name}_{position}"}
                place = {"position": position, "first_line": 1, "lines": 1, "byte_start": 0, "byte_end": chunk["bytes"]}
                connection.execute(insert(tables.chunks).values(**key, **place, pool=chunk["pool"], suspects=[], parts=[]))
                for entry in chunk["entries"]:
                    mine = {"tenant": batch["tenant"], "batch_id": name, "chunk_id": key["id"]}
                    connection.execute(insert(tables.ledger).values(**mine, **entry))
        for pool, hour, kind, source, energy_j, seconds in told:
            spent = {"energy_source": source, "energy_j": 0.0 if source == "unmeasured" else energy_j, "seconds": seconds}
            where = {"pool": pool, "hour": DAY + timedelta(hours=hour), "batch_id": "batch_0" if kind == "waste" else ""}
            connection.execute(insert(tables.spending).values(**where, kind=kind, **spent))


def amounts(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """What is known, by name; the middle figure of a range."""
    if isinstance(value, Range):
        yield name, value.mid
    elif isinstance(value, Part):
        for part in ("energy_j", "g", "embodied_g"):
            yield from amounts(f"{name} {part}", getattr(value, part))
    elif isinstance(value, dict):
        for source, joules in value.items():
            yield f"{name} {source}", joules
    elif value is not None:
        yield name, value


def sums(costs: Iterable[Cost], *, waste: bool = True) -> dict[str, float]:
    """Every amount of all of them."""
    found: dict[str, list[float]] = {}
    names = (*SUMS, "requests", "busy_s", *(part for part in Parts._fields if waste or part != "waste"))
    for cost in costs:
        for name in names:
            for each, amount in amounts(name, getattr(cost, name, None)):
                found.setdefault(each, []).append(amount)
    return {name: total for name, some in found.items() if (total := math.fsum(some))}


def same(some: dict[str, float], others: dict[str, float]) -> bool:
    names = some.keys() | others.keys()
    return all(math.isclose(some.get(name, 0.0), others.get(name, 0.0), rel_tol=1e-9, abs_tol=1e-9) for name in names)


@settings(max_examples=15, deadline=None)
@given(world=WORLDS)
def test_levels_add_up(runtime: Runtime, world: tuple[list[dict[str, Any]], list[Any]]) -> None:
    write(runtime, world)

    def slices(by: By, start: datetime = DAY, end: datetime = END, batch_id: str | None = None) -> list[Slice]:
        return runtime.breakdown.slices(ANY, by, start, end, batch_id)

    of_batches = slices("batch")
    whole = sums(of_batches)
    for by in get_args(By):
        found = slices(by)
        assert same(sums(found, waste=by != "chunk"), sums(of_batches, waste=by != "chunk"))
        for some in found:
            assert some.waste is None or by != "chunk"
            known = not some.unknown_energy_j and some.pue is not None and some.intensity_g_per_kwh is not None
            if known and some.operational_g:
                assert some.pue is not None
                assert some.intensity_g_per_kwh is not None
                product = some.energy_j / 3.6e6 * some.pue * some.intensity_g_per_kwh
                assert some.operational_g == pytest.approx(product, rel=1e-9)
    noon = DAY + timedelta(hours=36)
    assert same(sums([*slices("pool", DAY, noon), *slices("pool", noon, END)]), whole)
    for batch in of_batches:
        assert same(sums(slices("chunk", batch_id=batch.name), waste=False), sums([batch], waste=False))
        (alone,) = slices("batch", batch_id=batch.name)
        assert alone == batch
    for chunk in slices("chunk"):
        requests = [Answered(f"r{n}", 7 * n, n, 100 - n) for n in range(3)]
        of_requests = sums(shared(chunk, requests), waste=False)
        expected = {name: value for name, value in sums([chunk], waste=False).items() if name not in {"requests", "busy_s"}}
        assert same(of_requests, expected)


@settings(max_examples=10, deadline=None)
@given(world=WORLDS)
def test_slices_agree_with_the_report(runtime: Runtime, world: tuple[list[dict[str, Any]], list[Any]]) -> None:
    write(runtime, world)
    for found in runtime.breakdown.slices(ANY, "batch", DAY, END):
        report = runtime.reports.report(found.name, ANY)
        assert found.energy_j == pytest.approx(report["energy_j"])
        beside: dict[str, float] = {}
        for part in report["beside"] if found.requests or found.busy_s else ():
            beside[part["part"]] = beside.get(part["part"], 0.0) + part["energy_j"]
        for name, energy_j in beside.items():
            part = getattr(found, name)
            assert (part.energy_j or 0.0) == pytest.approx(energy_j), name


def test_unknown_parts_are_null_and_say_why(runtime: Runtime) -> None:
    entry = {
        "pool": "here", "model": "tiny", "started_at": DAY, "ended_at": DAY + timedelta(hours=1), "busy_s": 10.0,
        "energy_j": 3.6e6, "energy_source": "nvml_counter", "host_j": 1.2e6, "host_source": "modelled", "startup_s": 0.0,
        "mark": "", "requests": 1, "input_tokens": 1, "cached_tokens": 0, "output_tokens": 1,
    }  # fmt: skip
    chunk = {"pool": "here", "bytes": 1, "entries": [entry]}
    batch = {"tenant": "ann", "input_there": False, "output": None, "erased": False, "chunks": [chunk]}
    write(runtime, ([batch], []))
    (found,) = runtime.breakdown.slices(ANY, "batch", DAY, END)
    assert found.energy_how.startswith("75% measured by the GPU's energy counter (NVML); 25% modelled by CPU time used")
    assert (found.pue, found.pue_how) == (1.3, "configuration: home 1.3")
    assert found.intensity_how
    assert found.idle
    assert (found.idle.energy_j, found.idle.g, found.idle.complete) == (None, None, False)
    assert "no meter told of idle time on pool here" in found.idle.how
    assert found.storage
    assert not found.storage.complete  # the database is known, the input is not
    assert "gone" in found.storage.how
    assert found.waste is None
    assert found.loading
    assert found.network
    assert (found.loading.energy_j, found.network.g) == (0.0, 0.0)  # known to be none
    write(
        runtime,
        ([{**batch, "chunks": [{**chunk, "entries": [{**entry, "pool": "sold"}]}]}], [("sold", 0, "idle", "rapl", 1.0, 1.0)]),
    )
    (lost,) = runtime.breakdown.slices(ANY, "pool", DAY, END)
    assert (lost.pue, lost.intensity_g_per_kwh, lost.operational_g) == (None, None, None)
    assert lost.idle
    assert (lost.idle.energy_j, lost.idle.g, lost.idle.complete) == (1.0, None, False)
    assert lost.network
    assert (lost.network.energy_j, lost.network.complete) == (None, False)
    assert lost.waste
    assert lost.waste.energy_j == 0.0  # its meters would have told


def test_a_part_says_whether_it_is_all() -> None:
    known, dark = Beside("idle", 1.0, 2.0, Range(1, 2, 3), "", "a"), Beside("idle", 3.0, None, None, "", "b")
    assert together("by time", []) == Part(0.0, 0.0, Range(0, 0, 0), True, "by time")
    assert together("by time", [known, known]) == Part(2.0, 4.0, Range(2, 4, 6), True, "by time; a")
    assert together("by time", [known, dark]) == Part(4.0, 2.0, Range(1, 2, 3), False, "by time; 75% b; 25% a")
    assert together("by time", [known], "and more").complete is False
    assert together("by time", [], "nobody knows").energy_j is None
