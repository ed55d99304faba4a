"""The hot statements find their rows by an index, with thousands of open batches and more that have ended, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select

from batchsched.queue import batches, caused, chunks, deliveries, files, idempotency, ledger, plans, retention, tables, tallies
from batchsched.queue.database import Database
from batchsched.queue.hot import Hot
from batchsched.queue.tenancy import ANY

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATE = NOW + timedelta(hours=2)
OPEN, ENDED, CUT = 2_000, 6_000, 5
LARGE = {"batches", "chunks", "ledger", "files", "deliveries"}


def _seed(connection: Connection) -> None:
    at = [NOW + timedelta(seconds=i) for i in range(OPEN + ENDED)]
    batch: dict[str, Any] = {
        "endpoint": "/v1/chat/completions", "completion_window": "1h", "model": "tiny", "deadline_at": NOW, "meta": {},
        "options": {}, "total": 10 * CUT,
    }  # fmt: skip
    rows = [
        {**batch, "id": f"b{i}", "tenant": f"t{i % 50}", "input_file_id": f"f{i}", "created_at": at[i], "state": state}
        for i in range(OPEN + ENDED)
        for state in ["in_progress" if i < OPEN else "completed"]
    ]
    connection.execute(insert(tables.batches), rows)
    pieces = [
        {
            "id": f"{row['id']}-{p}", "batch_id": row["id"], "position": p, "first_line": 10 * p + 1, "lines": 10,
            "byte_start": 0, "byte_end": 9, "suspects": [], "state": state, "completed": 10 if state == "done" else 0,
            "lease_until": NOW if state == "leased" else None, "worker_id": "w", "pool": "p",
        }
        for i, row in enumerate(rows)
        for p in range(CUT if row["state"] == "in_progress" else 3)
        for state in ["done" if row["state"] == "completed" else "leased" if i < 100 and p == 0 else "pending"]
    ]  # fmt: skip
    connection.execute(insert(tables.chunks), pieces)
    for times in (1, 2):  # what has ended is soon the most of it
        old: dict[str, Any] = {column.name: column for column in tables.chunks.c}
        old |= {"id": tables.chunks.c.id + "+" * times, "position": tables.chunks.c.position + 100 * times}
        again = select(*old.values()).where(tables.chunks.c.state == "done")
        connection.execute(insert(tables.chunks).from_select(list(old), again))
    file: dict[str, Any] = {"purpose": "batch", "filename": "a", "bytes": 1, "sha256": "x"}
    moments = [{"created_at": created, "expires_at": created + timedelta(days=30)} for created in at]
    connection.execute(
        insert(tables.files), [{**file, **moments[i], "id": f"f{i}", "tenant": f"t{i % 50}"} for i in range(len(at))]
    )
    connection.execute(insert(tables.ledger), [_span(piece, at[i % len(at)]) for i, piece in enumerate(pieces[:9000])])
    told: dict[str, Any] = {
        "tenant": "t",
        "hook": "h",
        "type": "batch.completed",
        "attempts": 0,
        "created_at": NOW,
        "due_at": NOW,
    }
    connection.execute(
        insert(tables.deliveries),
        [{**told, "id": f"d{i}", "batch_id": f"b{i}", "state": "delivered" if i > 50 else "pending"} for i in range(6000)],
    )
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ANALYZE")


def _span(piece: dict[str, Any], at: datetime) -> dict[str, Any]:
    return {
        "batch_id": piece["batch_id"], "chunk_id": piece["id"], "pool": "p", "model": "tiny", "started_at": at, "busy_s": 1.0,
        "ended_at": at + timedelta(seconds=1), "energy_j": 1.0, "energy_source": "modelled", "requests": 1, "input_tokens": 1,
        "cached_tokens": 0, "output_tokens": 1, "lengths": {"1": 1},
    }  # fmt: skip


STEPS: dict[str, Callable[[Connection], object]] = {
    "batches.page": lambda c: batches.page(c, "t7", limit=20),
    "batches.page after": lambda c: batches.page(c, "t7", limit=20, after="b4007"),
    "batches.page of all": lambda c: batches.page(c, ANY, limit=20, after="b4007"),
    "batches.newest": lambda c: batches.newest(c, "t7", NOW, NOW + timedelta(days=1), 20),
    "batches.newest of all": lambda c: batches.newest(c, ANY, NOW, NOW + timedelta(days=1), 20),
    "batches.in_state": lambda c: batches.in_state(c, ["validating", "in_progress", "finalizing", "cancelling"]),
    "batches.due": lambda c: batches.due(c, NOW - timedelta(days=1)),
    "batches.runnable": batches.runnable,
    "batches.move": lambda c: batches.move(c, "b7", "finalizing", NOW),
    "batches.uses_file": lambda c: batches.uses_file(c, "f7"),
    "batches.count": lambda c: batches.count(c, "b7", completed=1, failed=0, input_tokens=1, cached_tokens=0, output_tokens=1),
    "files.page": lambda c: files.page(c, "t7", limit=100, after="f4007"),
    "files.page oldest first": lambda c: files.page(c, "t7", limit=100, after="f4007", newest_first=False),
    "files.kept_for": lambda c: files.kept_for(c, ["b9"]),
    "caused.facts": lambda c: caused.facts(c, ["b9"]),
    "caused.worked": lambda c: caused.worked(c, ["b9"]),
    "caused.days": lambda c: caused.days(c, ["b9"]),
    "caused.sizes": lambda c: caused.sizes(c, ["b9"]),
    "files.remove": lambda c: files.remove(c, "f8", NOW),
    "retention.expired": lambda c: retention.expired(c, NOW, 100),
    "deliveries.forget": lambda c: deliveries.forget(c, NOW - timedelta(days=30)),
    "idempotency.forget": lambda c: idempotency.forget(c, NOW - timedelta(days=7)),
    "retention.over": lambda c: retention.over(c, NOW - timedelta(days=1), 20),
    "chunks.get": lambda c: chunks.get(c, "b9-1", lock=True),
    "chunks.claim": lambda c: chunks.claim(c, "b9", worker_id="w", pool="p", limit=1, now=NOW, lease_s=60),
    "chunks.claim whole": lambda c: chunks.claim(
        c, "b9", worker_id="w", pool="p", limit=1, now=NOW, lease_s=60, whole_first=True
    ),
    "chunks.ready": lambda c: chunks.ready(c, NOW),
    "chunks.claimable": lambda c: chunks.claimable(c, "b9", NOW, 8),
    "chunks.holders": lambda c: chunks.holders(c, ["w", "v"]),
    "chunks.in_flight": chunks.in_flight,
    "tallies.of_pool": lambda c: tallies.of_pool(c, "p"),
    "plans.newest": plans.newest,
    "ledger.tokens_since": lambda c: ledger.tokens_since(c, "t7", NOW),
    "ledger.energy_since": lambda c: ledger.energy_since(c, "t7", NOW),
    "chunks.extend": lambda c: chunks.extend(c, [("b10-0", 0)], NOW, 60),
    "chunks.of_worker": lambda c: chunks.of_worker(c, "w"),
    "chunks.of_batch": lambda c: chunks.of_batch(c, "b9", after=1, limit=500),
    "chunks.by_state": lambda c: chunks.by_state(c, "b9"),
    "chunks.served_by": lambda c: chunks.served_by(c, "b9"),
    "chunks.summary": chunks.summary,
    "chunks.close": lambda c: chunks.close(c, "b9", leased_too=True),
    "chunks.forgive": lambda c: chunks.forgive(c, NOW, 60),
    "chunks.rescue": lambda c: chunks.rescue(c, NOW + timedelta(days=1)),
    "ledger.add": lambda c: ledger.add(c, **_span({"batch_id": "b9", "id": "b9-1"}, NOW)),
    "ledger.busy_of_days": lambda c: ledger.busy_of_days(c, LATE, LATE + timedelta(days=1), ["p"]),
    "ledger.spans": lambda c: ledger.spans(c, "t7", NOW, NOW + timedelta(days=1), "b9"),
    "ledger.of_batch": lambda c: ledger.of_batch(c, "b9"),
    "ledger.entries": lambda c: ledger.entries(c, "tiny", "p"),
    "ledger.entries behind one": lambda c: ledger.entries(c, "tiny", "p", after=7),
    "ledger.newest": lambda c: ledger.newest(c, "tiny", "p"),
    "ledger.answers": lambda c: ledger.answers(c, "t7", "tiny", "/v1/chat/completions"),
    "ledger.answers of all": lambda c: ledger.answers(c, ANY, "tiny", "/v1/chat/completions"),
    "deliveries.due": lambda c: deliveries.due(c, "h", NOW, 10),
    "deliveries.unaddressed": deliveries.unaddressed,
    "deliveries.of_batch": lambda c: deliveries.of_batch(c, "b9"),
}


@contextmanager
def _heard(connection: Connection) -> Generator[list[tuple[str, Any]]]:
    """The statements that are sent meanwhile, with their parameters."""
    found: list[tuple[str, Any]] = []

    def listen(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        found.append((statement, parameters))

    def hot(self: Hot, connection: Connection, how: str, text: str, bound: Any) -> Any:
        found.append((text, bound))
        return run(self, connection, how, text, bound)

    run = Hot._run  # pyright: ignore[reportPrivateUsage]
    event.listen(connection, "before_cursor_execute", listen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hot, "_run", hot)
        yield found
    event.remove(connection, "before_cursor_execute", listen)


def _whole_tables(connection: Connection, statement: str, parameters: Any) -> set[str]:
    """Tables that the database would read from end to end for a statement."""
    if connection.dialect.name == "sqlite":
        cursor: Any = connection.connection.cursor()
        plan = [row[3].split() for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        return {words[1] for words in plan if words[0] == "SCAN" and "chunks_leased" not in words} & LARGE  # that has leases only
    answer = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    nodes = [(json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]]
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node["Node Type"] == "Seq Scan":
            found.add(node["Relation Name"])
    return found & LARGE


def test_no_hot_statement_reads_a_whole_table(database: Database) -> None:
    with database.write() as connection:
        _seed(connection)
    scans: dict[str, set[str]] = {}
    with database.write() as connection:
        for name, step in STEPS.items():
            with _heard(connection) as sent:
                step(connection)
            assert sent, name
            whole = {table for statement, parameters in sent for table in _whole_tables(connection, statement, parameters)}
            if whole:
                scans[name] = whole
    assert scans == {}


def test_the_test_sees_a_whole_table_being_read(database: Database) -> None:
    with database.write() as connection:
        _seed(connection)
    with database.read() as connection:
        assert _whole_tables(connection, "SELECT * FROM batches WHERE completion_window = 'x'", ()) == {"batches"}
