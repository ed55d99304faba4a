"""Migrations, on both databases: from every earlier revision with rows in the tables, and to exactly what the tables declare."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    CheckConstraint,
    Engine,
    ForeignKeyConstraint,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    select,
)  # fmt: skip
from sqlmodel import SQLModel

from batchsched.errors import DamagedDatabase, DatabaseUnavailable
from batchsched.queue import batches, chunks, files, ledger, plans, workers
from batchsched.queue.database import Database, upgrade
from batchsched.queue.postgres import Postgres
from batchsched.queue.revisions import MIGRATIONS, revisions
from batchsched.queue.sqlite import Sqlite
from tests.live import PATIENCE_S
from tests.postgres import PostgresServer
from tests.processes import ROOT

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
REVISIONS = list(revisions())
SEEDS: dict[str, dict[str, Any]] = {
    "files": {"id": "f", "purpose": "x", "filename": "", "bytes": 9, "sha256": "x", "status": "processed", "created_at": NOW},
    "batches": {
        "id": "b", "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h", "state": "in_progress",
        "created_at": NOW, "deadline_at": NOW, "meta": {"k": "v"}, "options": {}, "total": 2, "completed": 1, "failed": 0,
        "input_bytes": 9, "input_tokens": 3, "cached_tokens": 0, "output_tokens": 4,
    },
    "counters": {"name": "stale_completions_total", "value": 7},
    "plans": {"made_at": NOW, "body": {"plan": 1}},
    "workers": {
        "id": "w", "pool": "p", "host": "h", "pid": 1, "state": "active", "registered_at": NOW, "seen_at": NOW,
        "ready_models": [],
    },
    "chunks": {
        "id": "c", "batch_id": "b", "position": 0, "first_line": 1, "lines": 2, "byte_start": 0, "byte_end": 9, "state": "leased",
        "token": 3, "worker_id": "w", "lease_until": NOW, "attempts": 1, "completed": 1, "failed": 0, "result_bytes": 5,
        "suspects": [2],
    },
    "ledger": {
        "batch_id": "b", "chunk_id": "c", "pool": "p", "model": "m", "started_at": NOW, "ended_at": NOW, "busy_s": 1.0,
        "energy_j": 2.0, "energy_source": "modelled", "startup_s": 0.0, "requests": 1, "input_tokens": 3, "cached_tokens": 0,
        "output_tokens": 4,
    },
    "leadership": {"id": 1, "epoch": 4, "server_id": "s", "since": NOW},
    "spending": {
        "pool": "p", "hour": NOW, "kind": "idle", "batch_id": "", "energy_source": "rapl", "seconds": 3.0, "energy_j": 5.0,
    },
}  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sqlite | Postgres]:
    """A database without any table."""
    if request.param == "sqlite":
        below: Sqlite | Postgres = Sqlite(tmp_path / "batchsched.db")
        yield below
        below.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.fresh(template="template0") as url:
        below = Postgres(url)
        yield below
        below.close()


def _fill(engine: Engine) -> None:
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            seed = SEEDS.get(table.name, {})
            if seed:
                connection.execute(insert(table).values({name: value for name, value in seed.items() if name in table.c}))


def _content(engine: Engine, columns: dict[str, list[str]] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, with these columns or all."""
    metadata = MetaData()
    metadata.reflect(engine)
    found: dict[str, list[dict[str, Any]]] = {}
    with engine.connect() as connection:
        for name, table in metadata.tables.items():
            if name != "alembic_version" and (columns is None or name in columns):
                wanted = [table.c[column] for column in columns[name]] if columns else list(table.c)
                found[name] = [dict(row) for row in connection.execute(select(*wanted)).mappings()]
    return found


def test_files_are_named_by_their_revisions() -> None:
    chain = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert chain[::-1] == REVISIONS


def test_a_schema_that_is_current_is_left_without_loading_what_migrates(tmp_path: Path) -> None:
    Database(tmp_path / "batchsched.db").close()
    code = "import sys; from pathlib import Path; from batchsched.queue.database import Database; import batchsched.server.app"
    opened = f"{code}; Database(Path(sys.argv[1])).close(); assert 'alembic' not in sys.modules"
    subprocess.run([sys.executable, "-c", opened, tmp_path / "batchsched.db"], check=True, cwd=ROOT)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_every_earlier_revision_comes_to_the_newest_with_its_rows(empty: Sqlite | Postgres, revision: str) -> None:
    upgrade(empty.writer, revision)
    _fill(empty.writer)
    before = _content(empty.writer)
    assert sum(len(rows) for rows in before.values()) >= 7
    upgrade(empty.writer)
    columns = {name: list(rows[0]) for name, rows in before.items() if rows}
    assert _content(empty.writer, columns) == {name: rows for name, rows in before.items() if rows}
    with empty.writer.connect() as connection:
        assert batches.get(connection, "b", "default")["meta"] == {"k": "v"}
        assert files.get(connection, "f", "default")["created_at"] == NOW
        assert chunks.held(connection, "c", 3)["suspects"] == [2]
        assert workers.get(connection, "w")["pool"] == "p"
        assert ledger.of_batch(connection, "b")[0]["energy_j"] == 2.0
        assert (plans.latest(connection) or {})["body"] == {"plan": 1}
        if empty.writer.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_servers_of_the_version_before_can_work_beside_each_migration(empty: Sqlite | Postgres) -> None:
    """docs/deploy/upgrade.md: what they read, write and name as the key of an upsert is there, and nothing new refuses them."""
    upgrade(empty.writer, REVISIONS[0])
    before = _tables(empty.writer)
    for revision in REVISIONS[1:]:
        upgrade(empty.writer, revision)
        after = _tables(empty.writer)
        for name, table in before.items():
            assert name in after, (revision, name)
            known = set(table.c.keys())
            assert _columns(table) == {n: said for n, said in _columns(after[name]).items() if n in known}, (revision, name)
            more = [column for column in after[name].c if column.name not in known]
            assert all(column.nullable or column.server_default is not None for column in more), (revision, name)
            assert _rules(after[name], known) == _rules(table, known), (revision, name)
        before = after


def _tables(engine: Engine) -> dict[str, Table]:
    metadata = MetaData()
    metadata.reflect(engine)
    return {name: table for name, table in metadata.tables.items() if name != "alembic_version"}


def _columns(table: Table) -> dict[str, tuple[str, object, bool]]:
    return {column.name: (repr(column.type), column.nullable, column.server_default is not None) for column in table.c}


def _rules(table: Table, known: set[str]) -> set[tuple[str, ...]]:
    """Keys, references and checks that have to do with one of these columns at least."""
    unique = [index.columns.keys() for index in table.indexes if index.unique]
    found: dict[tuple[str, ...], set[str]] = {("unique index", *names): set(names) for names in unique}
    for rule in table.constraints:
        if isinstance(rule, CheckConstraint):
            text = " ".join(str(rule.sqltext).split())
            found["check", text] = set(re.findall(r"\w+", text))
        elif isinstance(rule, ForeignKeyConstraint | PrimaryKeyConstraint | UniqueConstraint):
            names = rule.columns.keys()
            found[type(rule).__name__, *names] = set(names)
    return {rule for rule, names in found.items() if names & known}


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.write() as connection:
        context = MigrationContext.configure(connection, opts={"render_as_batch": True, "compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
        inspector = inspect(connection)
        for table in SQLModel.metadata.sorted_tables:  # which compare_metadata does not look at
            declared = {constraint.name for constraint in table.constraints if isinstance(constraint, CheckConstraint)}
            assert {check["name"] for check in inspector.get_check_constraints(table.name)} == declared


def test_several_servers_may_migrate_at_once(postgres: PostgresServer) -> None:
    with postgres.fresh(template="template0") as url:
        code = f"from batchsched.queue.database import Database; Database({url!r}).close()"
        started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
        assert [process.wait(timeout=PATIENCE_S) for process in started] == [0, 0]
        opened = Database(url)
        with opened.read() as connection:
            assert batches.counted(connection) == {}
        opened.close()


def test_who_only_looks_changes_nothing(postgres: PostgresServer) -> None:
    with postgres.fresh() as url:
        opened = Database(url, reading=True)
        with opened.read() as connection:
            assert batches.counted(connection) == {}
        with pytest.raises(DatabaseUnavailable), opened.write() as connection:
            connection.exec_driver_sql("DELETE FROM counters")
        with pytest.raises(DatabaseUnavailable), opened.statement() as connection:
            connection.exec_driver_sql("DELETE FROM counters")
        opened.close()


def test_who_only_looks_refuses_another_schema(postgres: PostgresServer) -> None:
    with postgres.fresh(template="template0") as url:
        with pytest.raises(DamagedDatabase, match="holds nothing of batchsched"):
            Database(url, reading=True)
        below = Postgres(url)
        upgrade(below.writer, REVISIONS[-2])
        with pytest.raises(DamagedDatabase, match=rf"schema \({REVISIONS[-2]}\) is older .* \({REVISIONS[-1]}\)"):
            Database(url, reading=True)
        with below.write() as connection:
            assert MigrationContext.configure(connection).get_current_revision() == REVISIONS[-2]
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        below.close()
        with pytest.raises(DamagedDatabase, match="newer batchsched"):
            Database(url, reading=True)


def test_a_database_from_the_future_is_refused(database_url: str, tmp_path: Path) -> None:
    where = database_url or tmp_path / "batchsched.db"
    opened = Database(where)
    with opened.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    with pytest.raises(DamagedDatabase, match="newer batchsched"):
        Database(where)
