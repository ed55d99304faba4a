"""One report over many batches: it says what theirs say, in a few statements, and never leaves any out without a word."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import event, insert

from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.errors import NotFound
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.port import Realised, Signal
from batchsched.forecasts.truth import Hindsight, best_known
from batchsched.queue import tables
from batchsched.queue.tenancy import ANY
from batchsched.server.runtime import Runtime
from tests.live import LiveServer, live_server
from tests.test_newest import span

AT = datetime(2026, 5, 1, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "DE"
[sites.away]
zone = "NL"
pue = 1.1
[pools.old]
gpu = "V100"
[pools.new]
gpu = "A100-80"
site = "away"
[pools.twin]
gpu = "A100-80"
site = "away"
[pools.newest]
gpu = "A100-80"
[models.tiny]
parameters_b = 8
[models.small]
parameters_b = 1
[planner]
solver = "greedy"
"""
BATCHES = 40
POOLS = ("old", "new", "twin")


def _fill(runtime: Runtime) -> None:
    """Batches of twelve spans on three pools, an hour apart, over the turn of hours; every third starts engines, every other one
    accepts a second model, which serves part of every fourth. One pool is like the baseline's."""
    batch: dict[str, Any] = {
        "tenant": "default", "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h", "model": "tiny",
        "state": "completed", "deadline_at": AT, "meta": {}, "options": {}, "total": 120,
    }  # fmt: skip
    spans: list[dict[str, Any]] = []
    for n in range(BATCHES):
        began = AT + timedelta(hours=n, minutes=59)
        for part in range(12):
            at = began + timedelta(seconds=10 * part)
            spans.append(
                span(
                    batch_id=f"b{n}", chunk_id=f"b{n}-{part % 4}", pool=POOLS[part % 3], started_at=at,
                    model="small" if n % 4 < part % 2 else "tiny",
                    ended_at=at + timedelta(seconds=10), busy_s=10.0, energy_j=1000.0 + part, host_j=7.0 if part % 2 else 0.0,
                    host_source="modelled", startup_s=5.0 if n % 3 == 0 and part in {0, 1, 6} else 0.0,
                    energy_source="rapl" if part < 8 else "nvml_counter",
                )
            )  # fmt: skip
    with runtime.database.write() as connection:
        accepts: list[dict[str, Any]] = [{"models": ["small"]}, {}]
        rows = [
            {**batch, "id": f"b{n}", "created_at": AT + timedelta(hours=n), "options": accepts[n % 2]} for n in range(BATCHES)
        ]
        connection.execute(insert(tables.batches), rows)
        connection.execute(insert(tables.ledger), spans)


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[LiveServer]:
    with live_server(tmp_path, CONFIG, server__database_url=database_url) as live:
        _fill(live.runtime)
        yield live


@contextmanager
def counted(runtime: Runtime) -> Generator[list[str]]:
    """Statements that this thread sends; the server has thoughts of its own meanwhile."""
    sent: list[str] = []
    here = threading.get_ident()

    def listen(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == here:
            sent.append(statement)

    with runtime.database.read() as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", listen)
    yield sent
    event.remove(engine, "before_cursor_execute", listen)


def test_the_whole_is_the_sum_of_its_batches(server: LiveServer) -> None:
    reports = server.runtime.reports
    each = [reports.report(f"b{n}", ANY) for n in range(BATCHES)]
    with counted(server.runtime) as sent:
        whole = reports.total(ANY)
    assert len([one for one in sent if "ledger" in one]) < 5 + 4  # profiles are looked up by model and pool
    for name in ("requests", "input_tokens", "output_tokens", "busy_s", "energy_j"):
        assert whole[name] == pytest.approx(sum(one[name] for one in each), rel=1e-12), name
    for name in ("operational_g", "baseline_g", "saved_g"):
        assert whole[name] == pytest.approx(sum(one[name] for one in each), rel=1e-3), name
    for name in ("time_g", "place_g", "gpu_g", "spare_g"):
        parts = sum(one["saving"][name] for one in each)
        assert whole["saving"][name] == pytest.approx(parts, abs=1e-3 * whole["baseline_g"]), name
    assert whole["embodied_g"]["mid"] == pytest.approx(sum(one["embodied_g"]["mid"] for one in each))
    assert sum(whole["energy_by_source"].values()) == pytest.approx(whole["energy_j"])
    assert whole["notes"] == each[0]["notes"]
    at_once_j = sum(one["baseline"]["terms"]["energy_j"] for one in each)
    told = [factor["value"] for factor in whole["provenance"] if factor["factor"] == "energy of the baselines"]
    assert sum(told) == pytest.approx(at_once_j, rel=1e-12)
    assert whole["models_accepted"] == ["small", "tiny"]
    assert {(row["pool"], row["model"]) for row in whole["rows"]} == {
        (pool, model) for pool in POOLS for model in ("small", "tiny")
    }


@pytest.mark.parametrize("by", ["batch", "tenant", "pool", "site", "chunk"])
def test_slices_over_all_add_up_to_it(server: LiveServer, by: str) -> None:
    with Client(server.url) as client:
        whole, slices = client.report(), client.slices(by)  # type: ignore[arg-type]
    assert sum(one.energy_j for one in slices) == pytest.approx(whole.energy_j, rel=1e-12)
    assert sum(one.operational_g or 0.0 for one in slices) == pytest.approx(whole.operational_g, rel=1e-3)
    assert sum(one.requests for one in slices) == whole.requests


def test_more_batches_than_it_takes_are_told_of(server: LiveServer) -> None:
    server.runtime.reports.most = 10
    with Client(server.url) as client:
        cut = client.report()
        assert "newest 10 batches" in cut.notes[0]
        assert "2026-05-02T06:00:00Z" in cut.notes[0]
        assert cut.requests == 10 * 12 * 10
        earlier = client.report(start=AT, end=AT + timedelta(hours=5))
        assert (earlier.requests, [note for note in earlier.notes if "newest" in note]) == (5 * 12 * 10, [])
        with pytest.raises(NotFound):
            client.report(start=AT + timedelta(days=300))
    ran = CliRunner().invoke(cli, ["report", "--server", server.url], catch_exceptions=False)
    assert "newest 10 batches" in ran.output
    ran = CliRunner().invoke(cli, ["report", "--from", "2026-05-02T12:00Z", "--server", server.url], catch_exceptions=False)
    assert "newest 10 batches" not in ran.output


class _Measured(Climatology):
    """Half-hourly values of one zone, with a gap."""

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        half = timedelta(minutes=30)
        spans = [AT + n * half for n in range(48) if n not in {7, 8}]
        return [
            Realised(zone, at, at + half, 100.0 + n, f"p{n % 2}", Signal())
            for n, at in enumerate(spans)
            if at + half > start and at < end and at + half <= now
        ]


def test_looking_back_on_many_spans_says_what_each_says_alone() -> None:
    """Where nothing was measured for a while, each five minutes."""
    provider, now, step = _Measured(), AT + timedelta(hours=20), timedelta(minutes=5)
    hindsight = Hindsight(provider, AT, now)
    filled = 0
    for minutes in range(0, 1195, 7):
        for length_s in (10, 300, 4000):
            start = AT + timedelta(minutes=minutes, seconds=13)
            end = start + timedelta(seconds=length_s)
            if not (alone := best_known(provider, "DE", start, end, now)).source.startswith("realised"):
                filled += 1
                alone = best_known(provider, "DE", start - (start - AT) % step, end + (AT - end) % step, now)
            assert hindsight.known("DE", start, end) == alone
    assert 10 < filled < 100
