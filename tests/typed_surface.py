"""What users of the SDK get has these types: read by two type checkers, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import Any, assert_type

import batchsched
from batchsched import Answer, AsyncClient, AsyncRun, Batch, BatchschedError, Client, File, Plan, Report, Run, Verdict
from batchsched.client import (
    AsyncMapped,
    AsyncResults,
    BatchError,
    BatchFunction,
    Carbon,
    Explanation,
    Failure,
    Forecast,
    ForecastFeed,
    Mapped,
    Model,
    Opening,
    Option,
    OutputLine,
    Progress,
    Release,
    Results,
    Risk,
    Schedule,
    Scheduling,
    Window,
)
from batchsched.testing import Asked, FakeServer, Refusal, echo


def a_run(client: Client) -> None:
    """Answers one by one and as tables."""
    run = client.run(["a", [{"role": "user", "content": "b"}], {"messages": []}], model="m", deadline="6h", priority=3)
    assert_type(run, Run)
    assert_type(run.wait(), Batch)
    assert_type(run.results(), Results[Answer])
    for answer in run:
        assert_type(answer, Answer)
        assert_type(answer.text, str | None)
        assert_type(answer.error, Failure | None)
        assert_type(answer.body, dict[str, Any] | None)
    assert_type(run.report(), Report)
    assert_type(client.attach("id"), Run)
    assert_type(client.plan(), Plan)


def a_loop(client: Client) -> None:
    """A function that yields has the values that it returns; one that returns its request, the answers."""

    def counted(text: str) -> Generator[str, Answer, int]:
        answer = yield text
        return len(answer.text or "")

    def plain(number: int) -> str:
        return str(number)

    assert_type(client.map(counted, ["a"], model="m"), Mapped[int])
    assert_type(client.map(plain, [1], model="m"), Mapped[Answer])
    assert_type(batchsched.batch(model="m", deadline="6h")(counted), BatchFunction[str, int])
    assert_type(batchsched.batch(model="m")(plain)(1), Answer)
    batchsched.batch(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.run(["a"], modell="m")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.run([1], model="m")  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def files_and_batches(client: Client) -> None:
    """OpenAI's part."""
    assert_type(client.files.create("a.jsonl"), File)
    batch = client.batches.create(file="a.jsonl", deadline="6h", endpoint="/v1/embeddings")
    assert_type(batch, Batch)
    assert_type(client.batches.results(batch.id), Results[OutputLine])
    assert_type([found.id for found in client.batches.list()], list[str])


def what_a_batch_says(batch: Batch, client: Client) -> None:
    """Beside OpenAI's fields."""
    assert_type(batch.batchsched, Scheduling)
    assert_type(batch.verdict, Verdict | None)
    if batch.verdict and batch.errors:
        assert_type(batch.verdict.options, tuple[Option, ...])
        assert_type(batch.errors.data, tuple[BatchError, ...])
    assert_type(batch.batchsched.risk, Risk | None)
    assert_type(batch.progress, Progress)
    assert_type(batch.carbon, Carbon | None)
    assert_type(client.batches.wait(batch.id, progress=True), Batch)
    assert_type(client.batches.explain(batch.id), Explanation)
    assert_type(client.batches.retry(batch.id, deadline="2h"), Batch)


def what_operators_ask(client: Client) -> None:
    """Forecasts, windows, recurring jobs."""
    assert_type(client.models.list(), tuple[Model, ...])
    assert_type(client.forecasts.list(), tuple[ForecastFeed, ...])
    assert_type(client.forecasts.retrieve("DE"), Forecast)
    assert_type(client.windows.retrieve("nights"), Window)
    assert_type(client.windows.retrieve("nights").openings, tuple[Opening, ...])
    assert_type(client.schedules.list(), tuple[Schedule, ...])
    assert_type(client.schedules.history("nightly"), tuple[Release, ...])
    try:
        client.plans.freeze(until="2h")
    except BatchschedError as problem:
        assert_type(problem.code, str)
        assert_type(problem.hint, str | None)


async def the_twin(client: AsyncClient, prompts: AsyncIterator[str]) -> None:
    """With await."""
    run = await client.run(prompts, model="m")
    assert_type(run, AsyncRun)
    assert_type(run.results(), AsyncResults[Answer])
    async for answer in run:
        assert_type(answer, Answer)
    assert_type(await run.wait(), Batch)
    assert_type(await client.map(str, [1], model="m"), AsyncMapped[Answer])


def in_tests() -> None:
    """A server that answers by a function."""

    def say(asked: Asked) -> str | Refusal:
        return asked.prompt or Refusal("empty")

    with FakeServer(say, models=["m"]) as server:
        assert_type(server, FakeServer)
        assert_type(server.work(), int)
    FakeServer(echo).close()
