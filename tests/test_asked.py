"""What engines were asked, at the server's own /metrics: as workers tell it, each request once, in the conventions' names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from batchsched.executors.share import EnergyShare
from batchsched.executors.tally import Tally
from batchsched.executors.unsaid import Unsaid
from batchsched.executors.worker import run_worker
from batchsched.operations import DURATION_BOUNDS_S, NOBODY, TOKEN_BOUNDS, Operation
from batchsched.queue import ledger, spending, workers
from batchsched.queue.database import Database
from batchsched.server.asked import asked_metrics, note_asked
from batchsched.server.counting import lasting
from batchsched.settings import Worker
from batchsched.wire import AskedPart, Spent
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.live import BASIC, live_server, requests
from tests.test_executors_meter import SetMeter
from tests.test_operations import ASKED, Keeping
from tests.test_spending import AT

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def exposed(text: str) -> Samples:
    """Every sample of the two histograms, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("gen_ai")
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    """What the samples with these labels come to."""
    return sum(value for (each, about), value in found.items() if each == name and labels.items() <= dict(about).items())


@pytest.mark.slow
async def test_a_workers_requests_are_seen_where_the_server_is_scraped(tmp_path: Path) -> None:
    runner, port = await serve_engine(FakeEngine())
    stop = asyncio.Event()
    try:
        with live_server(tmp_path, BASIC) as server:
            batch = await asyncio.to_thread(server.submit, requests(3))
            worker = asyncio.create_task(
                run_worker(Worker(engine_url=f"http://127.0.0.1:{port}"), "local", server.url, stop=stop)
            )
            ended = await asyncio.to_thread(server.until, batch["id"], "completed")
            stop.set()
            await worker  # its last word says what the heartbeats had not said yet
            found = exposed(server.http.get("/metrics").text)
            usage = ended["usage"]
    finally:
        await runner.cleanup()
    about = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "vllm", "gen_ai_request_model": "tiny", "error_type": ""}
    about |= {"batchsched_pool": "local"}
    assert of(found, "gen_ai_client_operation_duration_seconds_count", **about) == 3
    assert of(found, "gen_ai_client_operation_duration_seconds_bucket", **about, le="+Inf") == 3
    assert of(found, "gen_ai_client_operation_duration_seconds_sum", **about) > 0
    for kind in ("input", "output"):
        assert of(found, "gen_ai_client_token_usage_count", **about, gen_ai_token_type=kind) == 3
        assert of(found, "gen_ai_client_token_usage_sum", **about, gen_ai_token_type=kind) == usage[f"{kind}_tokens"]


def test_a_message_that_comes_twice_counts_once(database: Database) -> None:
    tally = Tally(NOBODY)
    tally.ended(ASKED)
    said = Spent(1, [], tally.take())
    with database.write() as connection:
        workers.add(connection, id="w", now=AT, pool="a:b", host="h", pid=1, protocol=2, version="")
        for _ in range(2):
            note_asked(connection, spending.add(connection, "w", [said]))
        note_asked(connection, spending.add(connection, "nobody", [said]))
    with database.read() as connection:
        counters = ledger.counted(connection)
    took, tokens = asked_metrics(counters)
    assert [(s.labels["batchsched_pool"], s.value) for s in took.samples if s.name.endswith("_count")] == [("a:b", 1)]
    assert {s.labels["gen_ai_token_type"]: s.value for s in tokens.samples if s.name.endswith("_sum")} == {
        "input": 12,
        "output": 0,
    }
    assert [family.name for family in lasting(counters)] == [took.name, tokens.name]  # and no counter of that name


def test_a_message_that_waits_takes_nothing_new_along() -> None:
    tally, keeping = Tally(NOBODY), Keeping()
    unsaid = Unsaid(EnergyShare(SetMeter(), lambda: AT), tally)
    tally.ended(ASKED)
    first = unsaid.now()
    assert first
    assert [sum(part.took) for part in first.asked] == [1]
    tally.ended(ASKED)
    assert unsaid.now() is first
    unsaid.arrived(first)
    (last,) = unsaid.last()
    assert [sum(part.took) for part in last.asked] == [1]
    onward = Tally(keeping)
    onward.ended(ASKED)
    assert keeping.seen == [ASKED]
    onward.close()


def test_other_buckets_than_ours_are_left_out(database: Database) -> None:
    strange = AskedPart("chat", "vllm", "tiny", "", [1], 1.0, [0] * 15, 0, [-1] * 15, -5)
    with database.write() as connection:
        note_asked(connection, [("p", Spent(1, [], [strange]))])
        assert ledger.counted(connection) == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "503", "timeout"]),
            st.sampled_from(["tiny", "org/a:b", 'say "x"']),
            st.floats(0, 1000).map(lambda seconds: round(seconds, 3)),
            st.none() | st.integers(0, 2**30),
            st.none() | st.integers(0, 2**30),
        ),
        max_size=20,
    )
)
def test_histograms_are_of_all_that_was_asked(asked: list[tuple[str, str, float, int | None, int | None]]) -> None:
    tally, counters = Tally(NOBODY), dict[str, int]()
    for problem, model, took_s, read, written in asked:
        tally.ended(Operation("chat", "vllm", model, "h", 1, took_s, problem, read, written))

    class Kept:
        @staticmethod
        def bump_each(_: object, more: dict[str, int]) -> None:
            counters.update(more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchsched.server.asked.ledger", Kept)
        note_asked(object(), [("p", Spent(1, [], tally.take()))])  # type: ignore[arg-type]
    samples = [sample for family in asked_metrics(counters) for sample in family.samples]
    for sample in samples:
        if not sample.name.endswith("_bucket"):
            continue
        alike = [one for one in asked if one[:2] == (sample.labels["error_type"], sample.labels["gen_ai_request_model"])]
        kind = sample.labels.get("gen_ai_token_type")
        values: list[float | None] = [one[3] if kind == "input" else one[4] if kind else one[2] for one in alike]
        assert sample.value == sum(value is not None and value <= float(sample.labels["le"]) for value in values)
    bounds = {float(s.labels["le"]) for s in samples if s.name == "gen_ai_client_operation_duration_seconds_bucket"}
    assert not asked or bounds == {*DURATION_BOUNDS_S, float("inf")}
    bounds = {float(s.labels["le"]) for s in samples if s.name == "gen_ai_client_token_usage_bucket"}
    assert bounds in (set[float](), {*map(float, TOKEN_BOUNDS), float("inf")})
