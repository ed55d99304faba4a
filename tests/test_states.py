"""The one transition table, the schema's CHECK constraints and the documented diagram agree; and migrations do not drift."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from batchsched.errors import Conflict, DataFolderInUse
from batchsched.queue import batches, chunks
from batchsched.queue.database import Database
from batchsched.queue.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS, TERMINAL
from batchsched.queue.tables import batches as batch_table
from batchsched.queue.tables import books

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DOCS = Path(__file__).parent.parent / "docs" / "states.md"


def _batch(state: str) -> dict[str, object]:
    return {
        "id": "b", "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h", "state": state,
        "created_at": NOW, "deadline_at": NOW, "meta": {}, "options": {},
    }  # fmt: skip


@pytest.mark.parametrize(("table", "transitions"), [("batches", BATCH_TRANSITIONS), ("chunks", CHUNK_TRANSITIONS)])
def test_the_schema_knows_exactly_the_states_of_the_table(database: Database, table: str, transitions: dict[str, object]) -> None:
    with database.read() as connection:
        checks = {check["name"]: check["sqltext"] for check in inspect(connection).get_check_constraints(table)}
    assert set(re.findall(r"'(\w+)'", checks["state_known"])) == set(transitions)


def test_the_documented_diagram_has_exactly_the_steps_of_the_table() -> None:
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", DOCS.read_text("utf-8"), re.MULTILINE))
    stepped = {(a, b) for table in (BATCH_TRANSITIONS, CHUNK_TRANSITIONS) for a, after in table.items() for b in after}
    assert drawn - {pair for pair in drawn if "*" in pair} == stepped


def test_every_step_of_the_table_works_and_no_other(database: Database) -> None:
    for source in BATCH_TRANSITIONS:
        for target in BATCH_TRANSITIONS:
            with database.write() as connection:
                connection.execute(books.delete())
                connection.execute(batch_table.delete())
                batches.add(connection, tenant="t", **_batch(source))
                if target in BATCH_TRANSITIONS[source]:
                    batches.move(connection, "b", target, NOW)
                    assert batches.get(connection, "b", "t")[f"{target}_at"] == NOW
                else:
                    with pytest.raises(Conflict):
                        batches.move(connection, "b", target, NOW)
                    assert batches.get(connection, "b", "t")["state"] == source


def test_terminal_states_lead_nowhere() -> None:
    assert {"completed", "failed", "expired", "cancelled"} == TERMINAL


@pytest.mark.parametrize(
    "broken",
    [
        {"state": "lost"},
        {"state": "leased"},  # without an end
        {"state": "done"},  # without results
        {"completed": 3},
        {"completed": -1},
    ],
)
def test_the_schema_refuses_chunks_that_cannot_be(database: Database, broken: dict[str, object]) -> None:
    row = {"id": "c", "batch_id": "b", "position": 0, "first_line": 1, "lines": 2, "byte_start": 0, "byte_end": 9, "suspects": []}
    with database.write() as connection:
        batches.add(connection, tenant="t", **_batch("in_progress"))
    with pytest.raises(IntegrityError), database.write() as connection:
        chunks.add(connection, [{**row, **broken}])


def test_one_server_owns_a_data_folder(tmp_path: Path) -> None:
    first = Database(tmp_path / "batchsched.db")
    with pytest.raises(DataFolderInUse, match="in use by another server"):
        Database(tmp_path / "batchsched.db")
    first.close()
    Database(tmp_path / "batchsched.db").close()


def test_writes_are_synced_and_checkpoints_are_ours(tmp_path: Path) -> None:
    path = tmp_path / "batchsched.db"
    database = Database(path)
    with database.write() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 0}
    wal = path.with_name("batchsched.db-wal")
    for i in range(50):
        with database.write() as connection:
            batches.add(connection, tenant="t", **{**_batch("validating"), "id": f"b{i}"})
    assert wal.stat().st_size > 100_000
    database.checkpoint()
    assert path.stat().st_size > 50_000  # it is all in the database file now
    database.close()


def test_a_commit_that_fails_leaves_nothing_behind_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    database = Database(tmp_path / "batchsched.db")
    row = {"id": "c", "batch_id": "nobody's", "position": 0, "first_line": 1, "lines": 2, "byte_start": 0, "byte_end": 9}

    def write() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")  # noticed at the end alone, which leaves it all open
            chunks.add(connection, [{**row, "suspects": []}])

    for _ in range(2):
        with pytest.raises(IntegrityError):
            write()
        with database.write() as connection:
            batches.add(connection, tenant="t", **{**_batch("validating"), "id": "b"})
            assert connection.exec_driver_sql("SELECT count(*) FROM chunks").scalar_one() == 0
            connection.execute(batch_table.delete())
    database.close()


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"readonly|does not answer") as caught, database.read() as connection:
        connection.execute(batch_table.delete())
    assert re.search("read-?only", f"{caught.value} {caught.value.__cause__}")
