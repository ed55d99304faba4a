"""Traces: the spans of a batch, which server and worker tell apart from each other, make one tree; and nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.errors import InvalidConfiguration, MissingExtra
from batchsched.executors.worker import run_worker
from batchsched.otlp import Otlp
from batchsched.settings import Worker, load
from batchsched.traces import OFF, Place, Span, Tracer, Traces, batch_place, file_place, opened, place_of
from tests.collector import Collector, Seen, collecting
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import FakeServer
from tests.live import HTTP, LiveServer, live_server, requests, wait_for
from tests.processes import Stage, end, free_port, tagged
from tests.test_executors_driver import served

CLIENT = Place("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
NOW = datetime(2026, 11, 22, 22, 0, 0, 123456, tzinfo=UTC)


class Keeping:
    """A tracer that keeps what it is given."""

    on = True

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def write(self, span: Span) -> None:
        """Keep it."""
        self.spans.append(span)

    def close(self) -> None:
        """Nothing waits."""


def a_span(number: int = 0, place: Place | None = None, parent: Place | None = None) -> Span:
    """One that took a second."""
    place = place or batch_place(f"batch_{number}")[0]
    return Span("batch", place, parent, NOW, NOW + timedelta(seconds=1), {"batchsched.requests": 3})


@given(st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=8, max_size=8).filter(any), st.booleans())
def test_a_place_is_read_from_its_own_header(trace: bytes, span: bytes, sampled: bool) -> None:
    place = Place(trace.hex(), span.hex(), sampled)
    assert place_of(place.traceparent) == place


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (CLIENT.traceparent, True),
        (f" {CLIENT.traceparent} ", True),
        (f"01-{CLIENT.trace_id}-{CLIENT.span_id}-01-what.comes.later", True),
        (f"00-{CLIENT.trace_id}-{CLIENT.span_id}-01-more", False),
        (f"ff-{CLIENT.trace_id}-{CLIENT.span_id}-01", False),
        (f"00-{'0' * 32}-{CLIENT.span_id}-01", False),
        (f"00-{CLIENT.trace_id}-{'0' * 16}-01", False),
        (CLIENT.traceparent.upper(), False),
        ("", False),
        ("what", False),
    ],
)
def test_headers_that_are_not_valid_count_as_none(header: str, valid: bool) -> None:
    assert (place_of(header) is not None) is valid


def test_a_batch_lies_in_its_clients_trace_or_in_one_of_its_own() -> None:
    own, above = batch_place("batch_1")
    assert (above, batch_place("batch_1")) == (None, (own, None))
    assert place_of(own.traceparent) == own
    within, above = batch_place("batch_1", CLIENT.traceparent)
    assert (within.trace_id, above) == (CLIENT.trace_id, CLIENT)
    assert batch_place("batch_2", CLIENT.traceparent)[0].span_id != within.span_id
    assert batch_place("batch_1", "no header") == (own, None)
    retried, above = batch_place("batch_1", CLIENT.traceparent, 1)
    assert (retried.trace_id, above) == (CLIENT.trace_id, within)
    assert retried != within


def test_nobody_is_told_unless_a_collector_is_named() -> None:
    url = "http://127.0.0.1:4318"
    assert opened(Traces(), {}, "x") is OFF
    assert opened(Traces(), {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SDK_DISABLED": "True"}, "x") is OFF
    assert opened(Traces(url), {"OTEL_TRACES_EXPORTER": "none"}, "x") is OFF
    tracer = opened(Traces(), {"OTEL_EXPORTER_OTLP_ENDPOINT": url}, "x")
    assert tracer.on
    tracer.close()
    with pytest.raises(InvalidConfiguration, match=r"traces\.endpoint"):
        opened(Traces("127.0.0.1:4318"), {}, "x")
    assert load(env={"BATCHSCHED_TRACES_ENDPOINT": url}, flags={}).settings.traces.endpoint == url


def test_a_missing_extra_is_said_where_traces_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "batchsched.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra) as caught:
        opened(Traces("http://127.0.0.1:4318"), {}, "x")
    assert "batchsched[traces]" in str(caught.value.hint)
    assert opened(Traces(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "x") is OFF  # it may be meant for others
    assert "pip install 'batchsched[traces]'" in caplog.text


def test_spans_arrive_where_they_belong_with_their_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    unsampled = Place(CLIENT.trace_id, CLIENT.span_id, sampled=False)
    root, above = batch_place("batch_1", CLIENT.traceparent)
    with collecting() as collector:
        tracer = Otlp(f"{collector.url}/", "it", "batchsched-test", {"batchsched.pool": "local"})
        tracer.write(a_span(place=batch_place("batch_2", unsampled.traceparent)[0], parent=unsampled))
        tracer.write(a_span(place=root, parent=above))
        tracer.write(Span("chunk", root.within("c"), root, NOW, NOW - timedelta(seconds=1), {}, problem="lost"))
        tracer.close()
        first, second = sorted(collector.spans, key=lambda span: span.name)
    assert first[:4] == ("batch", CLIENT.trace_id, root.span_id, CLIENT.span_id)
    assert (first.started_ns, first.ended_ns) == (1795384800123456000, 1795384801123456000)
    assert first.about == {"batchsched.pool": "local", "batchsched.requests": 3}
    assert (second.parent, second.problem, first.problem) == (root.span_id, "lost", "")
    assert second.started_ns == second.ended_ns  # a clock went back
    assert first.service == "batchsched-test"


def test_trouble_with_a_collector_is_said_once_and_its_end_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        tracer = Otlp(collector.url, "it", "x", {})
        for came, collector.status in enumerate((400, 400, 200, 200), 1):
            tracer.write(a_span())
            wait_for(lambda: len(collector.bodies) >= came)  # noqa: B023 - it is asked at once
        tracer.close()
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(",")[0] for text in said] == ["Traces do not reach it", "Traces reach it again."]
    assert "400" in said[0]


@pytest.mark.slow
def test_a_dead_collector_costs_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "3")
    tracer = Otlp(f"http://127.0.0.1:{free_port()}", "it", "x", {})
    for number in range(5000):  # more than wait; with one word to the network for each, this test would not end in its time
        tracer.write(a_span(number))
    wait_for(lambda: caplog.records)
    tracer.close()
    assert [record.name for record in caplog.records] == ["batchsched.otlp"]
    assert "refused" in caplog.text


async def worked(server: FakeServer, engine: FakeEngine, tracer: Tracer = OFF) -> dict[str, Any]:
    """All that the server has, done by a worker; the answers by custom_id."""
    runner, port = await serve_engine(engine)
    stop = asyncio.Event()
    try:
        async with served(server.app()) as url:
            settings = Worker(server_url=url, engine_url=f"http://127.0.0.1:{port}")
            server.worker = asyncio.create_task(run_worker(settings, "local", stop=stop, tracer=tracer))
            try:
                await server.until_done()
            finally:
                stop.set()
                await asyncio.gather(server.worker, return_exceptions=True)
    finally:
        await runner.cleanup()
    return {name: line["response"]["body"]["choices"] for name, line in server.outputs().items()}


@pytest.mark.slow
async def test_the_engine_is_told_under_which_span_it_works_and_answers_the_same() -> None:
    prompts, root = [f"one two n{number}" for number in range(6)], batch_place("batch_1")[0]
    plain, silent, told = FakeEngine(), FakeEngine(), FakeEngine()
    answers = await worked(FakeServer(prompts, chunk_lines=3), plain)
    assert plain.traceparents == [None] * 6
    server, tracer = FakeServer(prompts, chunk_lines=3), Keeping()
    server.traceparent = root.traceparent
    assert await worked(server, silent) == answers
    assert silent.traceparents == [root.traceparent] * 6  # the worker tells of nothing: what the server said goes on
    server = FakeServer(prompts, chunk_lines=3)
    server.traceparent = root.traceparent
    assert await worked(server, told, tracer) == answers
    assert dict(Counter(told.traceparents)) == {span.place.traceparent: 3 for span in tracer.spans}
    assert [(span.name, span.parent, span.problem) for span in tracer.spans] == [("chunk", root, "")] * 2
    assert {span.about["batchsched.chunk.end"] for span in tracer.spans} == {"finish"}
    assert {span.about["gen_ai.usage.input_tokens"] for span in tracer.spans} == {9}


@pytest.mark.slow
async def test_a_lease_that_was_lost_is_told_as_lost() -> None:
    server, engine, tracer = FakeServer(["a", "b"], heartbeat_s=60), FakeEngine(), Keeping()
    server.traceparent = batch_place("batch_1")[0].traceparent
    engine.gate.clear()
    stop = asyncio.Event()
    runner, port = await serve_engine(engine)
    async with served(server.app()) as url:
        settings = Worker(server_url=url, engine_url=f"http://127.0.0.1:{port}")
        server.worker = asyncio.create_task(run_worker(settings, "local", stop=stop, tracer=tracer))
        await server.until(lambda: engine.in_flight == 2)
        server.steal(server.chunks[0])
        engine.gate.set()
        await server.until(lambda: tracer.spans)
        stop.set()
        await server.worker
        await runner.cleanup()
    (span,) = tracer.spans
    assert (span.problem, span.about["batchsched.chunk.end"]) == ("lost", "lost")


def told_by(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    """What a server tells from now on."""
    keeping = Keeping()
    monkeypatch.setattr(server.runtime.told, "_tracer", keeping)
    return keeping


def test_an_upload_is_told_in_its_clients_trace_or_in_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(tmp_path) as server:
        tracer = told_by(server, monkeypatch)
        for data, headers in ((b"no JSON\n", {}), (requests(2), {"traceparent": CLIENT.traceparent})):
            form = {"files": {"file": ("f", data)}, "data": {"purpose": "batch"}}
            server.http.post("/v1/files", headers=headers, **form).raise_for_status()  # type: ignore[arg-type]
        server.http.post("/v1/files", files={"file": ("f", b"")}, data={"purpose": "none"})
        (bad, good) = tracer.spans
        file_id = str(good.about["batchsched.file.id"])
        assert (good.place, good.parent, good.problem) == (*file_place(file_id, CLIENT.traceparent), "")
        assert (good.name, good.parent, good.about["batchsched.file.bytes"]) == ("upload", CLIENT, len(requests(2)))
        assert good.started_at <= good.ended_at
        assert (bad.place, bad.parent) == file_place(str(bad.about["batchsched.file.id"]))
        assert bad.place.trace_id != good.place.trace_id
        assert bad.problem == "invalid lines"


def test_a_batch_is_told_with_the_joules_and_grams_of_its_report(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_server(tmp_path, server__database_url=database_url, server__chunk_lines=2) as server:
        tracer = told_by(server, monkeypatch)
        batch_id = server.submit(requests(4))["id"]
        done = server.worker().drain(batch_id)
        (batch,) = wait_for(lambda: [span for span in tracer.spans if span.name == "batch"])
        carbon = done["batchsched"]["carbon"]
        ran = {name: batch.about[f"batchsched.{name}"] for name in ("energy_j", "grams", "grams_run_now")}
        assert ran == {name: carbon[name] for name in ran}
        assert (batch.about["batchsched.energy_j"], carbon["unknown_energy_j"]) == (200.0, 0.0)
        assert batch.about["batchsched.grams"] > 0  # type: ignore[operator]
        assert batch.about["batchsched.file.id"] == done["input_file_id"]
        assert {span.name for span in tracer.spans} == {"upload", "validate", "plan", "merge", "batch"}
        nothing = server.submit(requests(1, model="none"))["id"]
        server.until(nothing, "failed")
        (failed,) = wait_for(lambda: [span for span in tracer.spans if span.name == "batch" and span.problem])
        assert not {name for name in failed.about if name.startswith(("batchsched.energy", "batchsched.grams"))}


def tree(spans: list[Seen], root: Place) -> dict[str, int]:
    """How many spans of each name lie below the batch's, its own counted; none may lie elsewhere."""
    assert len({span.span_id for span in spans}) == len(spans)
    assert all(span.parent == root.span_id for span in spans if span.span_id != root.span_id)
    assert all(span.started_ns <= span.ended_ns for span in spans)
    return dict(Counter(span.name for span in spans))


def submit(stage: Stage, data: bytes, headers: dict[str, str] | None = None) -> str:
    """A batch's id."""
    file = HTTP.post(f"{stage.url}/v1/files", files={"file": ("f", data)}, data={"purpose": "batch"}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made: str = HTTP.post(f"{stage.url}/v1/batches", json=body, headers=headers or {}).json()["id"]
    return made


def until_told(collector: Collector, trace_id: str, spans: int) -> list[Seen]:
    """So many spans of a trace."""
    wait_for(lambda: len(collector.of(trace_id)) >= spans)
    return collector.of(trace_id)


@pytest.mark.slow
def test_what_server_and_worker_tell_of_a_batch_makes_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    more = "[traces]\nendpoint = '{0}'\n[metrics]\nendpoint = '{0}'\n"
    with collecting() as collector, Stage(tmp_path, chunk_lines=4, more=more.format(collector.url)) as stage:
        server = stage.server()
        stage.engine()
        worker = stage.worker()
        batch_id = submit(stage, tagged(8, "x", "hush"))
        root, _ = batch_place(batch_id)
        spans = until_told(collector, root.trace_id, 6)
        theirs = submit(stage, tagged(4, "y", "hush"), {"traceparent": CLIENT.traceparent})
        in_theirs = until_told(collector, CLIENT.trace_id, 5)
        failed = submit(stage, tagged(4, "z", "hush").replace(b'"tiny"', b'"none"'))
        in_failed = until_told(collector, batch_place(failed)[0].trace_id, 2)
        shown = HTTP.get(f"{stage.url}/v1/batches/{theirs}").json()
        told = HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()
        end(worker)
        end(server)
    assert tree(spans, root) == {"batch": 1, "validate": 1, "plan": 1, "chunk": 2, "merge": 1}
    (whole,) = (span for span in spans if span.name == "batch")
    chunks = [span for span in spans if span.name == "chunk"]
    assert (whole.parent, whole.span_id, whole.started_ns // 10**9) == ("", root.span_id, told["created_at"])
    assert whole.started_ns <= min(span.started_ns for span in spans)
    assert {span.service for span in spans} == {"batchsched-server", "batchsched-worker"}
    assert {span.about["batchsched.batch.id"] for span in spans} == {batch_id}
    assert {(span.about["batchsched.pool"], span.about["gen_ai.request.model"]) for span in chunks} == {("local", "tiny")}
    assert {span.about["gen_ai.provider.name"] for span in chunks} == {"vllm"}
    for name in ("batchsched.requests", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
        assert whole.about[name] == sum(span.about[name] for span in chunks) > 0
    asked = {point.about.get("gen_ai.token.type", "took"): point for point in collector.points}
    assert {kind: point.times for kind, point in asked.items()} == {"took": 12, "input": 12, "output": 12}
    both = [span for span in (*spans, *in_theirs) if span.name == "chunk"]
    for kind in ("input", "output"):
        assert asked[kind].total == sum(span.about[f"gen_ai.usage.{kind}_tokens"] for span in both)
    assert {point.service["service.name"] for point in collector.points} == {"batchsched-worker"}
    assert (whole.about["batchsched.batch.state"], whole.about["gen_ai.operation.name"]) == ("completed", "chat")
    (plan,) = (span for span in spans if span.name == "plan")
    assert plan.about["batchsched.verdict.feasible"] is True
    theirs_root, _ = batch_place(theirs, CLIENT.traceparent)
    assert tree(in_theirs, theirs_root)["chunk"] == 1
    assert {span.parent for span in in_theirs if span.name == "batch"} == {CLIENT.span_id}
    assert "traceparent" not in shown["batchsched"]
    assert {span.name: span.problem for span in in_failed}["batch"].startswith("failed: ")
    assert not any(b"hush" in body for body in collector.bodies)
