"""Quotas: what is refused, with which words, until when; and that two at once cannot both take the last place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import QuotaExceeded
from batchsched.profiles.answers import Answers
from batchsched.profiles.lengths import estimate, refine
from batchsched.queue import batches, files, ledger
from batchsched.queue.database import Database
from batchsched.server.quotas import Quotas
from batchsched.settings import Settings, Tenant
from batchsched.units import length_class
from tests.live import BASIC, PATIENCE_S, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)


def answers_now(connection: Connection, rows: Sequence[Mapping[str, Any]], _now: datetime) -> Answers:
    answers = Answers()
    for kind in {(row["tenant"], row["model"], row["endpoint"]) for row in rows}:
        answers.learn(kind, ledger.answers(connection, *kind))
    return answers


def quotas(grams: float = 0.0, **limits: Any) -> Quotas:
    return Quotas(Settings(tenants={"t": Tenant(**limits)}), lambda _tenant, _at: grams, answers_now, ManualClock(NOW))


def add_batch(database: Database, batch_id: str, *, tenant: str = "t", state: str = "in_progress", **more: Any) -> None:
    row: dict[str, Any] = {
        "id": batch_id,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "f",
        "completion_window": "24h",
        "state": state,
        "created_at": NOW,
        "deadline_at": NOW + timedelta(days=1),
        "meta": {},
        "options": {},
        "total": 10,
        "input_bytes": 10 * 550,  # 100 tokens a line
        "max_tokens_total": 1000,
    }
    with database.write() as connection:
        batches.add(connection, tenant=tenant, **{**row, **more})


def add_tokens(database: Database, at: datetime, tokens: int, **more: Any) -> None:
    with database.write() as connection:
        ledger.add(
            connection,
            **{
                "batch_id": "b",
                "chunk_id": f"c{at}",
                "pool": "p",
                "model": "m",
                "started_at": at,
                "ended_at": at,
                "busy_s": 1.0,
                "energy_j": 1.0,
                "energy_source": "modelled",
                "startup_s": 0.0,
                "requests": 1,
                "input_tokens": tokens - 1,
                "cached_tokens": 0,
                "output_tokens": 1,
                **more,
            },
        )


def expected(done: int = 0, input_tokens: int = 0, output_tokens: int = 0, limit: int = 1000) -> float:
    """Tokens that the rest of such a batch is expected to take."""
    left = refine(estimate(10 * 550, 10, limit), 10, done, input_tokens, output_tokens)
    return left.input_tokens + left.output_tokens


OPEN = expected() + expected(5, 500, 300)
"""Of a batch at its begin and of one half done, as below."""


def refusal(database: Database, asked: Quotas, tenant: str = "t") -> QuotaExceeded | None:
    """What one more create is told."""
    grams = asked.grams(tenant)
    try:
        with database.write() as connection:
            asked.create(connection, tenant, grams)
    except QuotaExceeded as problem:
        return problem
    return None


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_open_batches": 2}, "max_open_batches of tenant 't' is 2; 2 are taken, and this would add 1"),
        ({"max_enqueued_requests": 15}, "max_enqueued_requests of tenant 't' is 15; 15 are taken"),
        ({"max_enqueued_tokens": int(OPEN)}, f"max_enqueued_tokens of tenant 't' is {int(OPEN):,}; {OPEN:,.0f} are taken"),
        ({"tokens_per_month": int(OPEN) + 100}, f"of tenant 't' is {int(OPEN) + 100:,}; {OPEN + 100:,.0f} are taken"),
        ({"grams_per_month": 9.5}, "grams_per_month of tenant 't' is 9.5; 9.5 are taken"),
    ],
)
def test_at_its_limit_a_tenant_is_refused_and_below_it_is_not(database: Database, limits: dict[str, Any], said: str) -> None:
    add_batch(database, "b", verdict={"expected_grams": 1.0})
    add_batch(database, "half", completed=3, failed=2, input_tokens=500, output_tokens=300, verdict={"expected_grams": 1.0})
    add_batch(database, "over", state="completed")
    add_batch(database, "other", tenant="u")
    add_tokens(database, NOW, 100)
    add_tokens(database, NOW - timedelta(days=30), 10_000)  # last month's
    problem = refusal(database, quotas(8.0, **limits))
    assert problem is not None
    assert said in problem.message
    ((name, limit),) = limits.items()
    assert refusal(database, quotas(8.0, **{name: limit + 1})) is None
    assert refusal(database, quotas(8.0, **limits), "u") is None


def test_tokens_go_by_the_answers_that_the_tenant_had(database: Database) -> None:
    """Its answers are ten tokens long whatever limit it asks, and its prompts have two bytes a token."""
    add_batch(database, "past", state="completed", input_bytes=1000 * 550, total=1000, model="m")
    add_batch(database, "next", max_tokens_total=10 * 4000, model="m")
    add_batch(database, "alien", max_tokens_total=10 * 4000, model="another")
    few = refusal(database, quotas(max_enqueued_tokens=1))
    add_tokens(
        database, NOW - timedelta(days=40), 1000 * 200 + 1, batch_id="past", requests=1000, lengths={str(length_class(10)): 1000}
    )
    learnt = refusal(database, quotas(max_enqueued_tokens=1))
    assert few is not None
    assert learnt is not None
    alien = expected(limit=10 * 4000)
    assert f"{2 * alien:,.0f} are taken" in few.message
    taken = float(learnt.message.split("; ")[1].split(" are")[0].replace(",", ""))
    assert taken - alien == pytest.approx(10 * (200 + 10), rel=0.1)


def test_budgets_say_when_the_month_ends_and_places_when_a_batch_may_finish(database: Database) -> None:
    add_batch(database, "b")
    for limits in ({"tokens_per_month": 0}, {"grams_per_month": 0}):
        problem = refusal(database, quotas(**limits))
        assert problem is not None
        assert problem.retry_after_s == timedelta(days=1, hours=12).total_seconds()
        assert "1d 12h" in str(problem.hint)
    full = quotas(max_open_batches=1)
    for finish, expected in ((None, 60), (timedelta(minutes=5), 300), (timedelta(days=2), 3600), (timedelta(hours=-1), 10)):
        with database.write() as connection:
            verdict = {"expected_finish_at": (NOW + finish).isoformat()} if finish else None
            batches.note(connection, "b", verdict=verdict)
        problem = refusal(database, full)
        assert problem is not None
        assert problem.retry_after_s == expected


def test_grams_are_asked_for_once_a_minute_and_anew_in_a_new_month() -> None:
    clock, asked = ManualClock(NOW), list[datetime]()

    def grams_since(_tenant: str, at: datetime) -> float:
        asked.append(at)
        return 7.0

    limited = Quotas(Settings(tenants={"t": Tenant(grams_per_month=1)}), grams_since, answers_now, clock)
    assert limited.grams("nobody") == 0.0
    for seconds in (0, 59, 60):
        assert limited.grams("t") == 7.0
        clock.advance(seconds)
    clock.set_wall(datetime(2026, 4, 1, tzinfo=UTC))
    limited.grams("t")
    assert asked == [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)]
    clock.advance(61)
    limited.grams("t")
    assert len(asked) == 3


def test_two_at_once_cannot_both_take_the_last_place(database: Database) -> None:
    asked, at_once = quotas(max_open_batches=1, max_bytes=10), threading.Barrier(6)
    accepted: list[str] = []

    def create(number: int) -> None:
        at_once.wait()
        try:
            with database.write() as connection:
                asked.create(connection, "t", 0.0)
                row = {"endpoint": "e", "input_file_id": "f", "completion_window": "1h", "state": "validating"}
                batches.add(connection, tenant="t", id=f"b{number}", created_at=NOW, deadline_at=NOW, meta={}, options={}, **row)
            accepted.append("batch")
        except QuotaExceeded:
            pass

    def upload(number: int) -> None:
        at_once.wait()
        try:
            with database.write() as connection:
                asked.upload(connection, "t", 10)
                row = {"purpose": "batch", "filename": "f", "sha256": "", "status": "processed"}
                files.add(connection, tenant="t", id=f"f{number}", bytes=10, created_at=NOW, expires_at=None, **row)
            accepted.append("file")
        except QuotaExceeded:
            pass

    threads = [threading.Thread(target=act, args=(i,)) for i in range(3) for act in (create, upload)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert sorted(accepted) == ["batch", "file"]


LIMITED = f"{BASIC}\n[tenants.default]\nmax_open_batches = 2\nmax_enqueued_requests = 5\nmax_bytes = 5000\n"


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, LIMITED) as server:
        yield server


def test_a_refusal_is_a_429_that_says_when_and_clients_do_not_wait_for_it(
    limited: LiveServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.jsonl").write_bytes(requests(1))
    first = limited.submit(requests(1))
    limited.submit(requests(1))
    file_id = limited.upload(requests(1))
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = limited.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert 10 <= int(answer.headers["retry-after"]) <= 3600
    with pytest.raises(SystemExit) as stop:
        main(["submit", "more.jsonl", "--deadline", "1h", "--server", limited.url])
    assert stop.value.code == 75
    said = capsys.readouterr().err
    assert "max_open_batches" in said
    assert "Try again in" in said
    limited.post(f"/v1/batches/{first['id']}/cancel")
    limited.until(first["id"], "cancelled")
    limited.post("/v1/batches", body)
    limited.post(f"/v1/batchsched/batches/{first['id']}/retry", {}, 429)  # a retry takes a place as well


def test_a_batch_that_is_too_large_for_what_is_left_fails_at_its_validation(limited: LiveServer) -> None:
    limited.until(limited.submit(requests(3))["id"], "in_progress")
    failed = limited.until(limited.submit(requests(3))["id"], "failed")
    (error,) = failed["errors"]["data"]
    assert error["code"] == "quota_exceeded"
    assert "is 5; 3 are taken, and this would add 3" in error["message"]
    limited.until(limited.submit(requests(2))["id"], "in_progress")


def test_stored_bytes_are_limited_and_deleting_makes_room(limited: LiveServer) -> None:
    kept = limited.upload(b"x" * 4000, "user_data")
    answer = limited.http.post("/v1/files", files={"file": ("f", b"x" * 2000)}, data={"purpose": "user_data"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exceeded")
    assert [file["id"] for file in limited.get("/v1/files")["data"]] == [kept]
    limited.http.delete(f"/v1/files/{kept}")
    limited.upload(b"x" * 2000, "user_data")


def test_grams_of_a_tenant_are_those_of_its_reports(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        batch = server.submit(requests(3))
        server.worker().drain(batch["id"])
        report = server.get(f"/v1/batchsched/batches/{batch['id']}/report")
        january = datetime(2026, 1, 1, tzinfo=UTC)
        assert report["operational_g"] > 0
        assert server.runtime.reports.grams_since("default", january) == pytest.approx(report["operational_g"], rel=0.2)
        assert server.runtime.reports.grams_since("default", january + timedelta(days=1)) == 0
        assert server.runtime.reports.grams_since("other", january) == 0
        assert wait_for(lambda: server.batch(batch["id"])["usage"]["total_tokens"] == 24)
        with server.runtime.database.read() as connection:
            assert ledger.tokens_since(connection, "default", january) == 24
