"""Operations: what engines were asked reaches a collector as the histograms that OpenTelemetry's conventions state."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from batchsched.errors import InvalidConfiguration, MissingExtra
from batchsched.executors.answers import Answer, judge
from batchsched.executors.told import LeaseTold
from batchsched.executors.worker import run_worker
from batchsched.operations import DURATION, NOBODY, TOKENS, Metrics, Operation, opened
from batchsched.otlp_metrics import OtlpMetrics
from batchsched.settings import Worker, load
from batchsched.traces import OFF
from batchsched.wire import Lease
from tests.collector import Collector, Point, collecting
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import FakeServer
from tests.live import wait_for
from tests.test_executors_driver import served
from tests.test_traces import NOW

ASKED = Operation("chat", "vllm", "tiny", "127.0.0.1", 8000, took_s=0.5, read=12, written=0)
URL = "http://127.0.0.1:4318"


class Keeping:
    """Keeps the operations that it is given."""

    def __init__(self) -> None:
        self.seen: list[Operation] = []

    def ended(self, operation: Operation) -> None:
        """Keep it."""
        self.seen.append(operation)

    def close(self) -> None:
        """Nothing waits."""


def test_nobody_is_told_unless_a_collector_is_named() -> None:
    assert opened(Metrics(), {}, "x") is NOBODY
    assert opened(Metrics(URL), {"OTEL_METRICS_EXPORTER": "none"}, "x") is NOBODY
    assert opened(Metrics(URL), {"OTEL_SDK_DISABLED": "true"}, "x") is NOBODY
    assert opened(Metrics(), {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, "x") is NOBODY
    with pytest.raises(InvalidConfiguration, match=r"metrics\.endpoint"):
        opened(Metrics("127.0.0.1:4318"), {}, "x")
    assert load(env={"BATCHSCHED_METRICS_ENDPOINT": URL}, flags={}).settings.metrics.endpoint == URL


def test_a_missing_extra_is_said_where_metrics_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "batchsched.otlp_metrics")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(MissingExtra) as caught:
        opened(Metrics(URL), {}, "x")
    assert "batchsched[traces]" in str(caught.value.hint)
    assert opened(Metrics(), {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": URL}, "x") is NOBODY
    assert "pip install 'batchsched[traces]'" in caplog.text


def by_name(collector: Collector, name: str) -> list[Point]:
    """What it holds of one histogram."""
    return [point for point in collector.points if point.name == name]


def test_histograms_are_those_of_the_conventions() -> None:
    with collecting() as collector:
        metrics = OtlpMetrics(f"{collector.url}/", "it", "batchsched-test", {"batchsched.pool": "local"})
        metrics.ended(ASKED)
        metrics.ended(Operation("chat", "vllm", "tiny", "127.0.0.1", 8000, took_s=90.0, problem="503"))
        metrics.close()
    about = ASKED.about | {"batchsched.pool": "local"}
    took = {str(point.about.get("error.type")): point for point in by_name(collector, DURATION.name)}
    assert {point.unit for point in took.values()} == {"s"}
    assert (took["None"].about, took["503"].about) == (about, about | {"error.type": "503"})
    assert took["503"].bounds == (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
    assert (took["503"].counts[-1], took["None"].total, took["None"].counts[6]) == (1, 0.5, 1)
    tokens = {point.about["gen_ai.token.type"]: point for point in by_name(collector, TOKENS.name)}
    assert {point.unit for point in tokens.values()} == {"{token}"}
    assert {kind: (point.times, point.total) for kind, point in tokens.items()} == {"input": (1, 12), "output": (1, 0)}
    powers = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
    assert list(tokens["input"].bounds) == powers
    assert {point.service["service.name"] for point in collector.points} == {"batchsched-test"}
    assert all(point.service["service.instance.id"] for point in collector.points)


def test_trouble_with_a_collector_is_said_once_and_nothing_is_lost_by_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        collector.status = 400
        metrics = OtlpMetrics(collector.url, "it", "x", {})
        metrics.ended(ASKED)
        wait_for(lambda: len(collector.bodies) >= 3)
        collector.status = 200
        wait_for(lambda: by_name(collector, DURATION.name))
        metrics.ended(ASKED)
        metrics.close()
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(",")[0] for text in said] == ["Metrics do not reach it", "Metrics reach it again."]
    assert "400" in said[0]
    assert [point.times for point in by_name(collector, DURATION.name)] == [2]


def test_what_an_answer_did_not_say_is_left_out() -> None:
    seen, lease = Keeping(), Lease("chunk", "batch", 1, "/v1/completions", "tiny", 1, 1, [], [], 1)
    told = LeaseTold(OFF, lease, lambda: NOW, "vllm", seen)
    told.asked("https://engine.example", 0.5, "", Answer())
    told.asked("http://[::1]:8000", 0.5, "timeout", Answer())
    told.asked("http://127.0.0.1:8000", 0.0, "400", Answer())  # no engine was asked
    lease.endpoint = "/v1/embeddings"
    usage = judge(200, b'{"object": "list", "usage": {"prompt_tokens": 7, "completion_tokens": 0}}').answer
    told.asked("http://127.0.0.1:8000", 0.5, "", usage)
    assert [(one.name, one.host, one.port, one.problem, one.read, one.written) for one in seen.seen] == [
        ("text_completion", "engine.example", 443, "", None, None),
        ("text_completion", "::1", 8000, "timeout", None, None),
        ("embeddings", "127.0.0.1", 8000, "", 7, None),
    ]


@pytest.mark.slow
async def test_each_request_to_the_engine_counts_the_refused_ones_too() -> None:
    server, engine, seen, stop = FakeServer(["one two", "three four", "five"]), FakeEngine(), Keeping(), asyncio.Event()
    engine.overloaded_above = 0
    runner, port = await serve_engine(engine)
    async with served(server.app()) as url:
        settings = Worker(server_url=url, engine_url=f"http://127.0.0.1:{port}")
        server.worker = asyncio.create_task(run_worker(settings, "local", stop=stop, operations=seen))
        await server.until(lambda: seen.seen)
        engine.overloaded_above = 100
        await server.until_done()
        stop.set()
        await server.worker
    await runner.cleanup()
    refused, well = [one for one in seen.seen if one.problem], [one for one in seen.seen if not one.problem]
    assert {(one.problem, one.read) for one in refused} == {("503", None)}
    assert {(one.name, one.provider, one.model, one.host, one.port) for one in well} == {
        ("chat", "vllm", "tiny", "127.0.0.1", port)
    }
    results = server.results.values()
    assert len(well) == len(results) == 3
    assert sum(one.read or 0 for one in well) == sum(result.input_tokens for result in results)
    assert sum(one.written or 0 for one in well) == sum(result.output_tokens for result in results) > 0
    assert all(0 < one.took_s < 60 for one in seen.seen)
