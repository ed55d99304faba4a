"""What is learnt is learnt of each tenant, model and pool by itself: nobody's work pushes out what is known of another's."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert

from batchsched.profiles.entries import Entries
from batchsched.queue import ledger, tables, trials
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.units import length_class
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests
from tests.test_queue_contract import add_batch
from tests.test_trials import trial

AT = datetime(2026, 5, 1, tzinfo=UTC)
CHAT = "/v1/chat/completions"
TWO_POOLS = BASIC.replace("[models.tiny]", '[pools.other]\ngpu = "cpu"\n[models.tiny]')


def span(number: int = 0, **values: Any) -> dict[str, Any]:
    """A minute of a chunk of its own: ten answers of a hundred tokens."""
    at = AT + timedelta(minutes=number)
    return {
        "tenant": "default", "endpoint": CHAT, "batch_id": "b", "chunk_id": f"c{number}", "pool": "local", "model": "tiny",
        "started_at": at, "ended_at": at + timedelta(minutes=1), "busy_s": 60.0, "energy_j": 600.0, "energy_source": "rapl",
        "requests": 10, "input_tokens": 1000, "cached_tokens": 0, "output_tokens": 1000,
        "lengths": {str(length_class(100)): 10}, **values,
    }  # fmt: skip


def enter(connection: Connection, *spans: dict[str, Any]) -> None:
    connection.execute(insert(tables.ledger), list(spans))


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, TWO_POOLS) as live:
        add_batch(live.runtime.database, state="completed", total=10, input_bytes=5500)
        yield live


def test_the_newest_are_of_each_kind(database: Database) -> None:
    add_batch(database, total=10)
    with database.write() as connection:
        enter(connection, span(0, tenant="quiet"), span(1, endpoint="/v1/completions"), span(2, pool="other"), span(3, model="m"))
        enter(connection, *(span(n) for n in range(4, 24)))
    with database.read() as connection:
        for tenant, model, endpoint, count in [
            ("quiet", "tiny", CHAT, 1),
            ("default", "tiny", "/v1/completions", 1),
            ("default", "m", CHAT, 1),
            ("default", "tiny", CHAT, 10),
            (ANY, "tiny", CHAT, 10),
            ("quiet", "m", CHAT, 0),
        ]:
            assert len(ledger.answers(connection, tenant, model, endpoint, limit=10)) == count  # type: ignore[arg-type]
        newest = ledger.entries(connection, "tiny", "local", limit=10)
        assert [row["ended_at"] for row in newest] == [AT + timedelta(minutes=n) for n in range(15, 25)]
        assert ledger.entries(connection, "tiny", "local", after=newest[6]["id"]) == newest[7:]
        assert [row["model"] for row in ledger.entries(connection, "m", "local", limit=10)] == ["m"]
        assert [row["pool"] for row in ledger.entries(connection, "tiny", "other", limit=10)] == ["other"]


def test_a_pool_with_many_trials_pushes_no_others_out(database: Database) -> None:
    with database.write() as connection:
        trials.add(connection, [trial(pool="other", started_at=AT), *(trial() for _ in range(20))])
    with database.read() as connection:
        assert sorted(row["pool"] for row in trials.recent(connection, limit=10)) == ["local"] * 10 + ["other"]


@pytest.mark.parametrize(
    ("sources", "whole"),
    [(["rapl", "modelled"], "modelled"), (["modelled", "nvml_counter"], "modelled"), (["rapl", "unmeasured"], "unmeasured"),
     (["nvml_power", "nvml_counter"], "nvml_power"), (["modelled", "unmeasured"], "unmeasured")],
)  # fmt: skip
def test_a_chunk_is_as_well_measured_as_its_worst_part(database: Database, sources: list[str], whole: str) -> None:
    add_batch(database, total=10)
    with database.write() as connection:
        enter(connection, *(span(n, chunk_id="c", energy_source=source) for n, source in enumerate(sources)))
    with database.read() as connection:
        seen = Entries(pieces=False).with_more(ledger.entries(connection, "tiny", "local"))
    (one,) = seen.observations
    assert (one.busy_s, one.energy_j) == (120.0, 1200.0 if whole not in {"modelled", "unmeasured"} else None)


def test_a_busy_pool_and_a_busy_tenant_leave_the_others_what_is_known_of_them(server: LiveServer) -> None:
    with server.runtime.database.write() as connection:
        enter(connection, *(span(n, pool="other") for n in range(3)))
        enter(connection, *(span(n, tenant="busy", lengths={"1": 10}) for n in range(3, 2100)))
    assert server.runtime.scheduler.observer.current_profiles()["tiny", "other"].observations == 3
    (chat,) = server.get(f"{PREFIX}/profiles")["answers"]
    assert chat["answers"] == pytest.approx(30, rel=0.01)


def test_others_answers_are_weighed_and_not_shown(server: LiveServer) -> None:
    """A tenant without answers is told what is usual; its batches are expected to be like everybody's."""
    usual = server.get(f"{PREFIX}/profiles")["answers"]
    assert usual[0]["answers"] == 0
    with server.runtime.database.write() as connection:
        enter(connection, *(span(n, tenant="busy", lengths={str(length_class(5000)): 10}) for n in range(50)))
    assert server.get(f"{PREFIX}/profiles")["answers"] == usual
    batch_id = server.submit(requests(10).replace(b', "max_tokens": 8', b""))["id"]
    server.until(batch_id, "in_progress")
    (job,) = server.runtime.scheduler.observer.look(server.runtime.clock.now()).problem.jobs
    profile = server.runtime.scheduler.observer.current_profiles()["tiny", "local"]
    assert job.seconds_on["local"] > profile.seconds(0, 10 * 4000)


def test_what_retention_took_is_learnt_from_no_more(server: LiveServer) -> None:
    observer = server.runtime.scheduler.observer

    def seen() -> int:
        return observer.current_profiles()["tiny", "local"].observations

    def forget(*chunks: int) -> None:
        with server.runtime.database.write() as connection:
            connection.execute(delete(tables.ledger).where(tables.ledger.c.chunk_id.in_([f"c{n}" for n in chunks])))

    with server.runtime.database.write() as connection:
        enter(connection, *(span(n) for n in range(6)), span(6, pool="other"))  # so that no number comes twice
    assert seen() == 6
    forget(1, 2)
    with server.runtime.database.write() as connection:
        enter(connection, span(7))
    assert seen() == 5
    forget(0, *range(3, 6), 7)
    assert seen() == 0
    with server.runtime.database.write() as connection:
        enter(connection, span(8))
    assert seen() == 1


def test_what_a_span_grew_by_is_seen(server: LiveServer) -> None:
    """Short spans of a chunk become one entry: the same number, and yet news."""
    observer = server.runtime.scheduler.observer
    known: dict[str, Any] = {"startup_s": 0.0, **span(busy_s=2.0, ended_at=AT + timedelta(seconds=2))}
    del known["tenant"], known["endpoint"]
    with server.runtime.database.write() as connection:
        ledger.add(connection, **known)
    before = observer.current_profiles()["tiny", "local"]
    later = {**known, "started_at": known["ended_at"], "ended_at": AT + timedelta(seconds=4), "busy_s": 200.0}
    with server.runtime.database.write() as connection:
        ledger.add(connection, **later)
        assert len(ledger.of_batch(connection, "b")) == 1
    after = observer.current_profiles()["tiny", "local"]
    assert (before.observations, after.observations) == (1, 1)
    assert after.seconds(1000, 1000) > before.seconds(1000, 1000)
