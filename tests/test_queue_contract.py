"""What the queue promises, on both databases alike; and what it promises to writers that meet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import pytest

from batchsched import exposed
from batchsched.errors import Conflict, DatabaseBusy, InvalidRequest, NotFound, StaleLease
from batchsched.queue import batches, chunks, files, ledger, plans, retention, workers
from batchsched.queue.database import Database, again
from tests.live import PATIENCE_S, live_server, requests

T = TypeVar("T")
NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=2)
LEASE_S = 60.0


def add_batch(database: Database, batch_id: str = "b", *, cut: int = 0, lines: int = 10, **values: Any) -> None:
    """A batch in progress with `cut` chunks."""
    row = {
        "id": batch_id, "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h", "model": "tiny",
        "state": "in_progress", "created_at": NOW, "deadline_at": NOW + timedelta(hours=1), "meta": {}, "options": {},
        "total": cut * lines,
    }  # fmt: skip
    with database.write() as connection:
        batches.add(connection, tenant="t", **{**row, **values})
        chunks.add(connection, [_chunk(batch_id, i, lines) for i in range(cut)])


def _chunk(batch_id: str, position: int, lines: int = 10) -> dict[str, Any]:
    where = {"first_line": position * lines + 1, "byte_start": position * 100, "byte_end": position * 100 + 100}
    return {"id": f"{batch_id}-{position}", "batch_id": batch_id, "position": position, "lines": lines, "suspects": [], **where}


def claim(
    database: Database, batch_id: str = "b", *, limit: int = 1, worker: str = "w", now: datetime = NOW, model: str | None = None
) -> list[Any]:
    """Lease chunks for a worker."""
    how: dict[str, Any] = {"worker_id": worker, "pool": "p", "limit": limit, "now": now, "lease_s": LEASE_S, "model": model}
    with database.statement() as connection:
        return chunks.claim(connection, batch_id, **how)


def at_once(steps: list[Callable[[], T]]) -> list[T]:
    """Take every step in a thread of its own, all of them let go at one moment."""
    gate = threading.Barrier(len(steps))

    def run(step: Callable[[], T]) -> T:
        gate.wait()
        return step()

    with ThreadPoolExecutor(len(steps)) as threads:
        return list(threads.map(run, steps))


# -- values --


def test_instants_are_aware_and_json_is_what_it_was(database: Database) -> None:
    elsewhere = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    add_batch(database, created_at=elsewhere, meta={"a": "ü\u0000\U0001f33f", "b": [1, 2.5, None]}, errors=None)
    with database.read() as connection:
        row = batches.get(connection, "b", "t")
    assert row["created_at"] == elsewhere
    assert row["created_at"].tzinfo is UTC
    assert row["meta"] == {"a": "ü\u0000\U0001f33f", "b": [1, 2.5, None]}
    assert row["errors"] is None


@pytest.mark.parametrize("values", [{"model": "a\ud800"}, {"input_tokens": 2**70}])
def test_what_cannot_be_stored_is_the_senders_fault(database: Database, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        add_batch(database, **values)


# -- leases --


def test_chunks_are_leased_in_file_order_each_with_a_token_that_grows(database: Database) -> None:
    add_batch(database, cut=3)
    assert [(row["position"], row["token"], row["state"]) for row in claim(database, limit=2)] == [
        (0, 1, "leased"),
        (1, 1, "leased"),
    ]
    with database.write() as connection:
        chunks.release(connection, "b-0", 1)
    assert [(row["id"], row["token"], row["lease_until"]) for row in claim(database)] == [
        ("b-0", 2, NOW + timedelta(seconds=LEASE_S))
    ]
    assert [row["id"] for row in claim(database, limit=9)] == ["b-2"]
    assert claim(database) == []


def test_which_model_serves_a_chunk_is_told_by_its_last_lease(database: Database) -> None:
    add_batch(database, cut=2)
    (first,) = claim(database, model="small")
    assert first["model"] == "small"
    claim(database)
    with database.write() as connection:
        chunks.release(connection, first["id"], first["token"])
        assert chunks.served_by(connection, "b") == {("p", "small"), ("p", None)}
    (again,) = claim(database)
    assert (again["id"], again["model"]) == (first["id"], None)
    with database.read() as connection:
        assert chunks.served_by(connection, "b") == {("p", None)}


def test_a_batch_that_does_not_run_gives_no_chunks(database: Database) -> None:
    add_batch(database, cut=2)
    with database.write() as connection:
        batches.move(connection, "b", "cancelling", NOW)
        assert chunks.ready(connection, NOW) == set()
    assert claim(database) == []


def test_a_stale_token_changes_nothing(database: Database) -> None:
    add_batch(database, cut=1)
    (lease,) = claim(database)
    with database.write() as connection:
        assert [row["id"] for row in chunks.rescue(connection, LATER)] == ["b-0"]
    (anew,) = claim(database, now=LATER)
    assert (lease["token"], anew["token"], anew["attempts"]) == (1, 2, 0)
    steps: list[Callable[[Any], object]] = [
        lambda c: chunks.held(c, "b-0", 1),
        lambda c: chunks.release(c, "b-0", 1),
        lambda c: chunks.fail(c, "b-0", 1, suspects=[1], not_before=NOW),
        lambda c: chunks.record(c, lease, completed=1, failed=0, parts=[["x", 0, 5]], result_bytes=5),
    ]
    for step in steps:
        with pytest.raises(StaleLease), database.write() as connection:
            step(connection)
    with database.write() as connection:
        assert chunks.extend(connection, [("b-0", 1)], LATER, LEASE_S) == ["b-0"]
        assert chunks.get(connection, "b-0") == anew


def test_a_failure_spends_an_attempt_and_waits(database: Database) -> None:
    add_batch(database, cut=1)
    claim(database)
    with database.write() as connection:
        assert chunks.fail(connection, "b-0", 1, suspects=[4], not_before=LATER) == 1
    assert claim(database) == []
    assert [(row["attempts"], row["suspects"]) for row in claim(database, now=LATER)] == [(1, [4])]


def test_results_are_counted_once_and_finish_the_chunk(database: Database) -> None:
    add_batch(database, cut=1)
    (row,) = claim(database)
    with database.write() as connection:
        row = chunks.record(connection, row, completed=4, failed=1, parts=[["x", 0, 50]], result_bytes=50)
    stale = {**row, "completed": 0, "failed": 0, "result_bytes": 0}
    with pytest.raises(Conflict), database.write() as connection:
        chunks.record(connection, stale, completed=1, failed=0, parts=[["y", 0, 9]], result_bytes=9)
    with database.write() as connection:
        chunks.record(connection, row, completed=5, failed=0, parts=[["x", 0, 99]], result_bytes=99)
        done = chunks.get(connection, "b-0")
    assert (done["state"], done["completed"], done["failed"], done["lease_until"]) == ("done", 9, 1, None)
    with database.write() as connection:
        assert chunks.rescue(connection, LATER) == []


def test_closing_a_batch_ends_its_pending_chunks_and_then_those_that_are_held(database: Database) -> None:
    add_batch(database, cut=3)
    claim(database)
    with database.write() as connection:
        chunks.close(connection, "b", leased_too=False)
        assert chunks.by_state(connection, "b") == {"leased": 1, "closed": 2}
        chunks.close(connection, "b", leased_too=True)
        assert chunks.by_state(connection, "b") == {"closed": 3}


def test_forgiven_leases_get_their_full_time_again(database: Database) -> None:
    add_batch(database, cut=2)
    claim(database)
    with database.write() as connection:
        chunks.forgive(connection, LATER, LEASE_S)
        assert chunks.rescue(connection, LATER) == []
        assert [row["lease_until"] for row in chunks.of_worker(connection, "w")] == [LATER + timedelta(seconds=LEASE_S)]


def test_the_summary_says_what_is_left_to_do(database: Database) -> None:
    add_batch(database, cut=3)
    add_batch(database, "ended", cut=2, state="failed")
    (row,) = claim(database)
    with database.write() as connection:
        chunks.record(connection, row, completed=4, failed=1, parts=[["x", 0, 50]], result_bytes=50)
    with database.read() as connection:
        found = {(row["state"], row["pool"]): (row["chunks"], int(row["requests"])) for row in chunks.summary(connection)}
        most = {(row["state"], row["pool"]): row["most"] for row in chunks.summary(connection)}
    assert found == {("pending", None): (2, 20), ("leased", "p"): (1, 5)}
    assert most == {("pending", None): 10, ("leased", "p"): 5}


def test_chunks_of_which_nothing_is_done_may_be_leased_first(database: Database) -> None:
    add_batch(database, cut=3)
    (row,) = claim(database)
    with database.write() as connection:
        chunks.record(connection, row, completed=4, failed=0, parts=[["x", 0, 50]], result_bytes=50)
        chunks.release(connection, row["id"], row["token"])
        how: dict[str, Any] = {"worker_id": "w", "pool": "p", "limit": 1, "now": NOW, "lease_s": LEASE_S}
        order = [chunks.claim(connection, "b", whole_first=True, **how)[0]["position"] for _ in range(3)]
    assert order == [1, 2, 0]


# -- the other tables --


def test_spans_that_follow_each_other_are_one_entry_and_repeated_ones_change_nothing(database: Database) -> None:
    add_batch(database, cut=1)
    span = {
        "batch_id": "b", "chunk_id": "b-0", "pool": "p", "model": "tiny", "busy_s": 1.0, "energy_j": 10.0,
        "energy_source": "modelled", "startup_s": 0.0, "requests": 1, "input_tokens": 2, "cached_tokens": 0, "output_tokens": 3,
    }  # fmt: skip

    def second(i: int) -> dict[str, datetime]:
        return {"started_at": NOW + timedelta(seconds=i), "ended_at": NOW + timedelta(seconds=i + 1)}

    for i in (0, 1, 1, 30):
        with database.write() as connection:
            ledger.add(connection, **span, **second(i), beside_pool="old", beside_s=0.5)
    with database.read() as connection:
        entries = ledger.of_batch(connection, "b")
        (summed,) = ledger.spans(connection, "t", NOW, NOW + timedelta(days=1))
    assert [(entry["requests"], entry["energy_j"], entry["beside_s"]) for entry in entries] == [(2, 20.0, 1.0), (1, 10.0, 0.5)]
    assert (summed["beside_pool"], summed["beside_s"]) == ("old", 1.5)
    assert entries[0]["ended_at"] == NOW + timedelta(seconds=2)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "small"},
        {"energy_source": "rapl"},
        {"host_source": "rapl"},
        {"mark": "mig"},
        {"startup_s": 1.0},
        {"beside_pool": "old"},
    ],
)
def test_spans_that_differ_in_more_than_their_amounts_stay_apart(database: Database, change: dict[str, Any]) -> None:
    """A chunk may move on to another model on its pool, or its meter may change."""
    add_batch(database, cut=1)
    span = {
        "batch_id": "b", "chunk_id": "b-0", "pool": "p", "model": "tiny", "busy_s": 1.0, "energy_j": 10.0,
        "energy_source": "modelled", "startup_s": 0.0, "requests": 1, "input_tokens": 2, "cached_tokens": 0, "output_tokens": 3,
    }  # fmt: skip
    for i, more in enumerate(({}, change)):
        at = NOW + timedelta(seconds=i)
        with database.write() as connection:
            ledger.add(connection, **{**span, **more}, started_at=at, ended_at=at + timedelta(seconds=1))
    with database.read() as connection:
        assert len(ledger.of_batch(connection, "b")) == 2


def test_counters_count_from_nothing(database: Database) -> None:
    for by in (1, 5):
        with database.write() as connection:
            ledger.bump(connection, exposed.STALE_COMPLETIONS, by=by)
    with database.read() as connection:
        assert ledger.counted(connection) == {"stale_completions_total": 6}
        assert ledger.count_of(connection, exposed.STALE_COMPLETIONS) == 6
        assert ledger.count_of(connection, exposed.DUPLICATE_RESULTS) == 0


def test_files_page_by_age_and_expire(database: Database) -> None:
    row = {"purpose": "batch", "filename": "a", "bytes": 1, "sha256": "x"}
    for i in range(5):
        with database.write() as connection:
            files.add(
                connection,
                tenant="t",
                id=f"f{i}",
                created_at=NOW + timedelta(seconds=i // 2),
                expires_at=LATER if i else None,
                **row,
            )
    with database.read() as connection:
        assert retention.expired(connection, NOW, 9) == []
        assert sorted(retention.expired(connection, LATER, 9)) == ["f1", "f2", "f3", "f4"]


def test_plans_are_found_by_their_instant(database: Database) -> None:
    for i in range(3):
        with database.write() as connection:
            plans.add(connection, NOW + timedelta(minutes=i), {"plan": i})
    with database.read() as connection:
        assert (plans.latest(connection) or {})["body"] == {"plan": 2}
        assert (plans.latest(connection, by=NOW + timedelta(seconds=90)) or {})["body"] == {"plan": 1}
        assert plans.latest(connection, by=NOW - timedelta(seconds=1)) is None


def test_workers_come_and_go(database: Database) -> None:
    with database.write() as connection:
        workers.add(connection, id="w", pool="p", host="h", pid=1, now=NOW)
        assert [row["id"] for row in workers.active(connection, NOW)] == ["w"]
        workers.seen(connection, "w", LATER, ready_models=["tiny"])
        assert workers.get(connection, "w")["ready_models"] == ["tiny"]
        hours = (LATER - NOW).total_seconds() / 3600
        assert workers.lost(connection, NOW, LATER)["p"] == pytest.approx((0, hours))
        assert workers.lost(connection, NOW, LATER + timedelta(hours=1))["p"] == pytest.approx((1, hours))  # silent since
        workers.bye(connection, "w", LATER)
        assert workers.lost(connection, NOW, LATER + timedelta(hours=1))["p"] == pytest.approx((0, hours))
        assert workers.lost(connection, LATER + timedelta(hours=1), LATER + timedelta(hours=2)) == {}
        assert workers.active(connection, NOW) == []
        with pytest.raises(NotFound):
            workers.seen(connection, "nobody", NOW)


# -- writers that meet --


def test_two_claims_at_once_never_get_the_same_chunk(database: Database) -> None:
    add_batch(database, cut=40)

    def take_all(name: str) -> list[str]:
        taken: list[str] = []
        while got := claim(database, limit=2, worker=name):
            taken += [row["id"] for row in got]
        return taken

    found = [chunk for taken in at_once([lambda i=i: take_all(f"w{i}") for i in range(4)]) for chunk in taken]  # type: ignore[misc]
    assert len(found) == len(set(found))
    while got := claim(database, limit=9):  # what every claimer passed over because another held it just then
        found += [row["id"] for row in got]
    assert Counter(found) == Counter(f"b-{i}" for i in range(40))


def test_counts_of_writers_that_meet_add_up(database: Database) -> None:
    add_batch(database, cut=4, lines=25)
    leases = claim(database, limit=4)

    def work(row: Any) -> None:
        for size in range(1, 26):
            with database.write() as connection:
                row = chunks.record(connection, row, completed=1, failed=0, parts=[["x", 0, size]], result_bytes=size)
                batches.count(connection, "b", completed=1, failed=0, input_tokens=2, cached_tokens=1, output_tokens=3)
                ledger.bump(connection, exposed.DUPLICATE_RESULTS)

    at_once([lambda row=row: work(row) for row in leases])  # type: ignore[misc]
    with database.read() as connection:
        batch = batches.get(connection, "b", "t")
        assert chunks.by_state(connection, "b") == {"done": 4}
        assert ledger.counted(connection) == {"duplicate_results_total": 100}
    assert (batch["completed"], batch["input_tokens"], batch["cached_tokens"], batch["output_tokens"]) == (100, 200, 100, 300)


def test_of_two_that_end_a_lease_one_does(database: Database) -> None:
    add_batch(database, cut=10, lines=1)
    for row in claim(database, limit=10):

        def step(how: Callable[[Any], object]) -> str:
            try:
                with database.write() as connection:
                    return "done" if how(connection) is not False else "nothing"
            except (StaleLease, Conflict):
                return "stale"

        ends: list[Callable[[Any], object]] = [
            lambda c, r=row: chunks.release(c, r["id"], r["token"]),  # type: ignore[misc]
            lambda c, r=row: chunks.record(c, r, completed=1, failed=0, parts=[["x", 0, 1]], result_bytes=1),  # type: ignore[misc]
            lambda c, r=row: chunks.fail(c, r["id"], r["token"], suspects=[], not_before=NOW),  # type: ignore[misc]
        ]
        outcomes = at_once([lambda how=how: step(how) for how in ends])  # type: ignore[misc]
        assert sorted(outcomes) == ["done", "stale", "stale"]
    with database.read() as connection:
        states = chunks.by_state(connection, "b")
    assert sum(states.values()) == 10
    assert "leased" not in states


def test_heartbeats_rescues_and_ends_that_meet_do_not_wait_for_each_other_for_ever(database: Database) -> None:
    add_batch(database, cut=30)
    leases = [(row["id"], row["token"]) for row in claim(database, limit=30)]

    def beat() -> None:
        for turn in range(10):
            with database.write() as connection:
                chunks.extend(connection, leases[::-1] if turn % 2 else leases, NOW, LEASE_S)

    def forgive() -> None:
        for _ in range(10):
            with database.write() as connection:
                chunks.forgive(connection, NOW, LEASE_S)
                chunks.rescue(connection, NOW)

    def close() -> None:
        with database.write() as connection:
            chunks.close(connection, "b", leased_too=True)

    at_once([beat, beat, forgive, close])
    with database.read() as connection:
        assert chunks.by_state(connection, "b") == {"closed": 30}


def test_a_file_is_not_removed_under_a_batch_that_is_about_to_need_it(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as connection:
        files.add(connection, tenant="t", id="f", purpose="batch", filename="a", bytes=1, sha256="x", created_at=NOW)
    holds = threading.Event()

    def needed_when_removed() -> bool:
        holds.wait(PATIENCE_S)
        with database.write() as connection:
            files.get(connection, "f", "t", lock=True)
            return batches.uses_file(connection, "f")

    with ThreadPoolExecutor(1) as thread:
        with database.write() as connection:
            files.get(connection, "f", "t", lock=True)
            answer = thread.submit(needed_when_removed)
            holds.set()
            batches.add(
                connection, tenant="t", id="b", endpoint="/v1/chat/completions", input_file_id="f", completion_window="1h",
                state="validating", created_at=NOW, deadline_at=NOW, meta={}, options={},
            )  # fmt: skip
        assert answer.result(PATIENCE_S)
    database.close()


def test_two_pools_do_not_both_begin_a_uniform_batch(postgres_url: str) -> None:
    database = Database(postgres_url)
    add_batch(database, cut=2)

    def begin(pool: str) -> bool:
        with database.write() as connection:
            batches.get(connection, "b", "t", lock=True)
            if any(used != (pool, None) for used in chunks.served_by(connection, "b")):
                return False
            return bool(chunks.claim(connection, "b", worker_id="w", pool=pool, limit=1, now=NOW, lease_s=LEASE_S))

    assert sorted(at_once([lambda: begin("p"), lambda: begin("q")])) == [False, True]
    database.close()


def test_a_step_that_gave_way_is_taken_again(postgres_url: str) -> None:
    database = Database(postgres_url)
    add_batch(database, cut=2)
    gate = threading.Barrier(2, timeout=PATIENCE_S)
    turns: list[int] = []

    @again
    def lock_both(order: list[str]) -> None:
        turns.append(1)
        with database.write() as connection:
            chunks.get(connection, order[0], lock=True)
            if len(turns) <= 2:
                gate.wait()  # now each holds what the other wants
            chunks.get(connection, order[1], lock=True)

    at_once([lambda: lock_both(["b-0", "b-1"]), lambda: lock_both(["b-1", "b-0"])])
    assert len(turns) > 2
    with pytest.raises(DatabaseBusy):
        _give_way_always()
    database.close()


@again
def _give_way_always() -> None:
    raise DatabaseBusy


# -- all of it --


def test_a_batch_runs_from_end_to_end(database_url: str, tmp_path: Path) -> None:
    with live_server(tmp_path, server__database_url=database_url) as server:
        batch_id = server.submit(requests(5))["id"]
        server.until(batch_id, "in_progress")
        done = server.worker().drain(batch_id)
        assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
        assert len(server.content(done["output_file_id"])) == 5
