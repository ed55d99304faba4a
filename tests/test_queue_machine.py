"""The queue against its model (queue_machine.py); and queues that are broken on purpose, which the model must find out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, update

from batchsched.queue import chunks
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.rows import Row
from batchsched.queue.store import Part, encoded, joined, parts_of
from batchsched.queue.tables import chunks as table
from tests.inprocess import in_process
from tests.queue_machine import QueueMachine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROUGH = settings(  # others each time; the long one tries hundreds
    max_examples=6,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
# A broken queue has to be found out, not explained: no shrinking.
HUNT = settings(ROUGH, max_examples=200, phases=[Phase.generate], database=None, derandomize=True)


BOTH = pytest.mark.parametrize("machine", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Generator[type[QueueMachine]]:
    def empty_database() -> AbstractContextManager[str]:
        return nullcontext("") if request.param == "sqlite" else request.getfixturevalue("postgres").fresh()

    with in_process() as make:
        yield type("Machine", (QueueMachine,), {"make": staticmethod(make), "empty_database": staticmethod(empty_database)})


@BOTH
def test_the_queue_keeps_its_promises(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(machine, settings=ROUGH)


@BOTH
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_queue_keeps_its_promises_for_long(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(ROUGH, max_examples=300, stateful_step_count=50))


@pytest.mark.long
@BOTH
def test_without_a_fence_it_is_found_out(machine: type[QueueMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    def unfenced(connection: Connection, stored: Sequence[chunks.Stored]) -> list[Row]:
        rows = [one.counted() for one in stored]
        for row in rows:
            values = {name: row[name] for name in ("state", "completed", "failed", "parts", "result_bytes")}
            connection.execute(update(table).where(table.c.id == row["id"]).values(**values))
        return rows

    monkeypatch.setattr(chunks, "held", lambda connection, chunk_id, *_, **__: chunks.get(connection, chunk_id))
    monkeypatch.setattr(chunks, "record_all", unfenced)
    _found_out(machine)


@pytest.mark.long
@BOTH
def test_an_acknowledgement_before_the_write_is_found_out(machine: type[QueueMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: dict[FolderStore, tuple[Row, Any]] = {}
    honest = FolderStore.append

    def late(store: FolderStore, chunk: Row, records: Any) -> list[Part]:
        """Writes down each group only when the next one comes; a dead process takes the last one with it."""
        if before := waiting.pop(store, None):
            honest(store, *before)
        waiting[store] = {**chunk, "parts": []}, list(records)
        end = sum(path.stat().st_size for path in (store.root / "results" / chunk["batch_id"]).glob(store._log_name))
        return joined(parts_of(chunk), Part(store._log_name, end, end + len(encoded(waiting[store][1]))))

    monkeypatch.setattr(FolderStore, "append", late)
    _found_out(machine)


@pytest.mark.long
@BOTH
def test_a_lost_rescue_is_found_out(machine: type[QueueMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "rescue", lambda *_: [])
    _found_out(machine)


def _found_out(machine: type[QueueMachine]) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=HUNT)
