"""Requests in, answers out in the same order: `run` and `map` of the asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Mapping
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from batchsched.client.answers import Answer, InOrder, answer
from batchsched.client.calls import BatchOptions
from batchsched.client.frames import AsyncResults
from batchsched.client.loops import Loop
from batchsched.client.requests import Asked, Writer, write_async
from batchsched.client.results import Batch, Report
from batchsched.client.runs import Numbered
from batchsched.client.showing import watch
from batchsched.errors import InvalidRequest
from batchsched.lines import CHAT

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from batchsched.client.asynchronous import AsyncBatches

T = TypeVar("T")
R = TypeVar("R")


class AsyncRun(Numbered):
    """As `Run`, with await: `async for` over it gives the answers in the order of the requests, as they come."""

    def __init__(self, batches: AsyncBatches, batch: Batch) -> None:
        super().__init__(batch)
        self._batches = batches

    async def wait(
        self,
        *,
        progress: bool = True,
        on_progress: Callable[[Batch], None] | None = None,
        poll_s: float = 5.0,
        patience_s: float = 60.0,
    ) -> Batch:
        """Wait until it is done, however it ends.

        `progress`: show how far it is, on a terminal or in a notebook; elsewhere nothing is shown. The rest is as with
        `batches.wait`.
        """
        with watch(progress, on_progress, self._seen) as look:
            return await self._batches.wait(self.id, on_progress=look, poll_s=poll_s, patience_s=patience_s)

    def results(self, *, poll_s: float = 2.0, patience_s: float = 60.0) -> AsyncResults[Answer]:
        """The answers in the order of the requests, each as soon as it is its turn; what has none has an `error`.

        Ends when the batch has. Raises InvalidInputFile where the server refused the requests, before anything ran; RequestFailed
        where the batch was cancelled before they were looked at.
        """
        return AsyncResults(self._in_order(poll_s, patience_s))

    def as_completed(self, *, poll_s: float = 2.0, patience_s: float = 60.0) -> AsyncResults[Answer]:
        """The answers as they come, in any order; `index` says whose each is."""
        lines = self._batches.results(self.id, follow=True, poll_s=poll_s, patience_s=patience_s)
        return AsyncResults(answer(line) async for line in lines)

    async def to_pandas(self) -> pd.DataFrame:
        """A row for each request, when all are answered. Raises MissingExtra where pandas is not installed."""
        return await self.results().to_pandas()

    async def to_polars(self) -> pl.DataFrame:
        """A row for each request, when all are answered. Raises MissingExtra where polars is not installed."""
        return await self.results().to_polars()

    async def to_arrow(self) -> pa.Table:
        """A row for each request, when all are answered. Raises MissingExtra where pyarrow is not installed."""
        return await self.results().to_arrow()

    async def cancel(self) -> Batch:
        """Ask for its end; what is done is kept."""
        return self._seen(await self._batches.cancel(self.id))

    async def report(self) -> Report:
        """Its energy, grams and savings."""
        return await self._batches.report(self.id)

    async def _in_order(self, poll_s: float, patience_s: float) -> AsyncIterator[Answer]:
        order = InOrder()
        try:
            async for line in self._batches.results(self.id, follow=True, poll_s=poll_s, patience_s=patience_s):
                for found in order.add(line):
                    yield found
            order.end(self._seen(await self._batches.retrieve(self.id)))
        finally:
            order.close()

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self.results()


class AsyncMapped(Generic[R]):
    """The values of a function over items, in their order, to be read once by `async for`.

    `run`: the batch behind it; None where there were no items. What the function raises for one item comes out here, and the
    next item can be asked for all the same.
    """

    def __init__(self, run: AsyncRun | None, value: Callable[[Answer], R]) -> None:
        self.run = run
        self._answers = aiter(run) if run else None
        self._value = value

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        if self._answers is None:
            raise StopAsyncIteration
        return self._value(await anext(self._answers))


class AsyncRunner:
    """`run`, `map` and `attach`, which `AsyncClient` has."""

    batches: AsyncBatches

    async def run(
        self,
        requests: Iterable[Asked] | AsyncIterable[Asked],
        *,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncRun:
        """Submit requests as one batch; `async for` over what comes back for the answers, in the order of the requests.

        Takes what `Client.run` takes, from asynchronous iterables too.
        """
        run = await self._submit(requests, model, parameters, idempotency_key, options)
        if run is None:
            raise InvalidRequest("There are no requests, so there is nothing to run.", param="requests")
        return run

    @overload
    async def map(
        self, function: Callable[[T], Generator[Asked, Answer, R]], items: Iterable[T] | AsyncIterable[T], *,
        model: str | None = None, parameters: Mapping[str, Any] | None = None, idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncMapped[R]: ...  # fmt: skip
    @overload
    async def map(
        self, function: Callable[[T], Asked], items: Iterable[T] | AsyncIterable[T], *,
        model: str | None = None, parameters: Mapping[str, Any] | None = None, idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncMapped[Answer]: ...  # fmt: skip
    async def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncMapped[Any]:
        """One batch for all items, submitted now; the values in the order of the items, as they come.

        `function` is an ordinary one, as with `Client.map`: it returns the request of an item, or yields it and gets the answer.
        """
        loop = Loop[Any, Any](function)
        run = await self._submit(loop.requests_async(items), model, parameters, idempotency_key, options)
        return AsyncMapped(run, loop.value)

    async def attach(self, batch_id: str) -> AsyncRun:
        """A batch that `run` or `map` made earlier, in this process or another."""
        return AsyncRun(self.batches, await self.batches.retrieve(batch_id))

    async def _submit(
        self,
        requests: Iterable[Asked] | AsyncIterable[Asked],
        model: str | None,
        parameters: Mapping[str, Any] | None,
        idempotency_key: str | None,
        options: BatchOptions,
    ) -> AsyncRun | None:
        with TemporaryFile() as out:
            if not await write_async(requests, Writer(out, model, options.get("endpoint", CHAT), parameters)):
                return None
            return AsyncRun(self.batches, await self.batches.create(file=out, idempotency_key=idempotency_key, **options))
