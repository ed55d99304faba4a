"""The asynchronous client: `Client`, with await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, Unpack

from batchsched.client import calls
from batchsched.client.answers import OutputLine
from batchsched.client.async_runs import AsyncRunner
from batchsched.client.calls import BatchOptions, Call, Changes, PlotFormat, SliceBy, Slices
from batchsched.client.frames import AsyncResults
from batchsched.client.results import (
    Batch,
    Books,
    Explanation,
    File,
    Model,
    PoolEnergy,
    Report,
    RequestShare,
)
from batchsched.client.showing import watch
from batchsched.errors import BatchschedError
from batchsched.transport import AsyncTransport

if TYPE_CHECKING:
    from batchsched.client.forecasting import AsyncForecasts
    from batchsched.client.operating import AsyncPlans, AsyncPools
    from batchsched.client.plans import Plan
    from batchsched.client.profiles import Profiles
    from batchsched.client.recurring import AsyncSchedules
    from batchsched.client.windowing import AsyncWindows

T = TypeVar("T")


class AsyncClient(AsyncRunner):
    """Speaks to one batchsched server. Use as a context manager, or close().

    `server` and `api_key` come from the environment and the configuration file where they are not given. Any failure is one of
    `batchsched.errors`; failures that may pass are tried again (transport.py).
    """

    def __init__(
        self,
        server: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        transport: AsyncTransport | None = None,
    ) -> None:
        if transport is None:
            transport = AsyncTransport(*calls.connection(server, api_key), timeout_s, max_retries)
        self._transport = transport
        self.files = AsyncFiles(self)
        self.batches = AsyncBatches(self)
        self.models = AsyncModels(self)

    @cached_property
    def forecasts(self) -> AsyncForecasts:
        """What is known of the grid. It is imported when it is first used, as are those below."""
        from batchsched.client.forecasting import AsyncForecasts

        return AsyncForecasts(self)

    @cached_property
    def windows(self) -> AsyncWindows:
        """When pools are open."""
        from batchsched.client.windowing import AsyncWindows

        return AsyncWindows(self)

    @cached_property
    def schedules(self) -> AsyncSchedules:
        """Jobs that recur."""
        from batchsched.client.recurring import AsyncSchedules

        return AsyncSchedules(self)

    @cached_property
    def plans(self) -> AsyncPlans:
        """Questions to the plan, and whether it shifts work."""
        from batchsched.client.operating import AsyncPlans

        return AsyncPlans(self)

    @cached_property
    def pools(self) -> AsyncPools:
        """What computes."""
        from batchsched.client.operating import AsyncPools

        return AsyncPools(self)

    def with_options(self, *, timeout_s: float | None = None, max_retries: int | None = None) -> AsyncClient:
        """The same client with other patience: `client.with_options(timeout_s=5).batches.retrieve(...)`. Connections are shared,
        and closed with either."""
        return AsyncClient(transport=self._transport.with_options(timeout_s, max_retries))

    @property
    def server(self) -> str:
        """The URL that it speaks to."""
        return self._transport.base_url

    async def plan(self) -> Plan:
        """The plan in force."""
        from batchsched.client import plans

        found = await self.send(plans.plan())
        return found.drawn_by(lambda: plans.fetched(self._transport.another()))

    async def profiles(self) -> Profiles:
        """How fast and at what power each pool runs each model, and how long answers are."""
        from batchsched.client import profiles

        return await self.send(profiles.profiles())

    async def report(self, start: datetime | None = None, end: datetime | None = None) -> Report:
        """The report over all batches that were created in [start, end); of very many over the newest, as its first note says."""
        return await self.send(calls.report_of_all(start, end))

    async def slices(
        self, by: SliceBy = "batch", *, batch_id: str | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> Slices:
        """What work cost in slices: of one batch, or of all that began in [start, end)."""
        return await self.send(calls.slices(by, batch_id, start, end))

    async def meters(self, start: datetime | None = None, end: datetime | None = None) -> tuple[PoolEnergy, ...]:
        """What the meters of each pool saw in the hours that begin in [start, end), and where it went."""
        return await self.send(calls.meters(start, end))

    async def send(self, call: Call[T]) -> T:
        """Send one request and read its answer."""
        return call.decode((await self._transport.request(call.method, call.path, **call.options)).content)

    async def blocks(
        self, path: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """The content behind a path, as it arrives; the answer's headers go into `headers`."""
        async with self._transport.stream("GET", path, params=params) as response:
            (headers if headers is not None else {}).update(response.headers)
            async for block in response.aiter_bytes():
                yield block

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._transport.base_url!r})"


class AsyncFiles:
    """`client.files`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, file: str | Path | IO[bytes], *, purpose: str = "batch") -> File:
        """Upload a file from disk, or one that is open for reading bytes, from its beginning; it is streamed, never read whole.
        A pipe is kept in a temporary file meanwhile: where the first try fails, the second sends all of it."""
        with ExitStack() as stack:
            name, stream = await asyncio.to_thread(stack.enter_context, calls.opened(file))  # what fills a pipe may take its time
            return await self._client.send(calls.create_file(name, stream, purpose))

    async def retrieve(self, file_id: str) -> File:
        """One file's description."""
        return await self._client.send(calls.retrieve_file(file_id))

    async def list(self, *, purpose: str | None = None) -> AsyncIterator[File]:
        """All files, newest first, fetched page by page."""
        after, more = None, True
        while more:
            page = await self._client.send(calls.list_page("files", after, purpose=purpose))
            for item in calls.items(page, File):
                yield item
            after, more = page.last_id, page.has_more

    async def delete(self, file_id: str) -> None:
        """Delete a file."""
        await self._client.send(calls.delete_file(file_id))

    async def content(self, file_id: str) -> bytes:
        """A file's content, whole in memory."""
        return b"".join([block async for block in self._client.blocks(calls.content_path(file_id))])

    async def download(self, file_id: str, to: str | Path) -> Path:
        """Stream a file's content to disk; `to` appears only once it is complete."""
        path = Path(to)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as out:
            async for block in self._client.blocks(calls.content_path(file_id)):
                out.write(block)
        return part.replace(path)


class AsyncBatches:
    """`client.batches`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self,
        input_file_id: str | None = None,
        *,
        file: str | Path | IO[bytes] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """Submit a batch of an uploaded file, or of a `file` on disk or open, which is uploaded first.

        With an `idempotency_key` it may be called again: the same key for the same request gives the same batch.
        """
        calls.one_input(input_file_id, file)
        file_id = input_file_id or (await self._client.files.create(file or "")).id
        batch = await self._client.send(calls.create_batch(file_id, options, idempotency_key))
        if file and batch.input_file_id != file_id:  # it was submitted before, with a copy of its own
            await self._client.files.delete(file_id)
        return batch

    async def retrieve(self, batch_id: str) -> Batch:
        """One batch as it stands."""
        return await self._client.send(calls.retrieve_batch(batch_id))

    async def list(self) -> AsyncIterator[Batch]:
        """All batches, newest first, fetched page by page."""
        after, more = None, True
        while more:
            page = await self._client.send(calls.list_page("batches", after))
            for item in calls.items(page, Batch):
                yield item
            after, more = page.last_id, page.has_more

    async def cancel(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Ask for its end; what is done is kept."""
        return await self._client.send(calls.cancel_batch(batch_id, dry_run=dry_run))

    async def delete(self, batch_id: str) -> None:
        """Delete what an ended batch holds: results, errors, metadata, and its input where no other batch has it."""
        await self._client.send(calls.delete_batch(batch_id))

    async def pause(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let nothing more of it start; its deadline holds all the same."""
        return await self._client.send(calls.pause_batch(batch_id, dry_run=dry_run))

    async def resume(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let a paused batch go on."""
        return await self._client.send(calls.resume_batch(batch_id, dry_run=dry_run))

    async def start(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let it wait no longer for a better hour or place; other deadlines hold all the same."""
        return await self._client.send(calls.start_batch(batch_id, dry_run=dry_run))

    async def retry(self, batch_id: str, *, deadline: str | datetime | None = None, dry_run: bool = False) -> Batch:
        """Run again only what failed or was left undone of a batch that ended; without `deadline`, for as long as at first."""
        return await self._client.send(calls.retry_batch(batch_id, deadline, dry_run=dry_run))

    async def update(self, batch_id: str, *, dry_run: bool = False, **changes: Unpack[Changes]) -> Batch:
        """Change its deadline (which brings a new verdict), priority or metadata; what is not named stays."""
        return await self._client.send(calls.update_batch(batch_id, changes, dry_run=dry_run))

    async def wait(
        self,
        batch_id: str,
        *,
        progress: bool = False,
        on_progress: Callable[[Batch], None] | None = None,
        poll_s: float = 5.0,
        patience_s: float = 60.0,
    ) -> Batch:
        """Wait until the batch is done, however it ends.

        `progress`: show how far it is, on a terminal or in a notebook. `on_progress` sees every look at it; looks are at most
        `poll_s` apart. A server that is away for up to about `patience_s` is waited for; then ServerUnreachable.
        """
        pauses = calls.Pauses(poll_s, patience_s)
        with watch(progress, on_progress) as look:
            while True:
                try:
                    batch = await self.retrieve(batch_id)
                except BatchschedError as problem:
                    pause_s = pauses.after_silence(problem)
                else:
                    look(batch)
                    if batch.done:
                        return batch
                    pause_s = pauses.after_answer()
                await asyncio.sleep(pause_s)

    def results(
        self, batch_id: str, *, follow: bool = False, poll_s: float = 2.0, patience_s: float = 60.0
    ) -> AsyncResults[OutputLine]:
        """Every result that is there, also while it runs; once it is done, the answers, then the errors. Match them by custom_id.

        With `follow`, results as they appear, until the batch is done; looks are at most `poll_s` apart, and a server that is
        away for up to about `patience_s` is waited for. One by one, or `.to_pandas()`, `.to_polars()`, `.to_arrow()`.
        """
        return AsyncResults(self._results(batch_id, follow, poll_s, patience_s))

    async def _results(self, batch_id: str, follow: bool, poll_s: float, patience_s: float) -> AsyncIterator[OutputLine]:
        following, pauses = calls.Following(batch_id, follow), calls.Pauses(poll_s, patience_s)
        while True:
            try:
                headers, lines = dict[str, str](), calls.Lines()
                async for block in self._client.blocks(following.path, following.params, headers):
                    for line in following.fresh(lines.feed(block)):
                        yield line
                if following.ended(headers) or not follow:
                    return
                pause_s = pauses.after_answer()
            except BatchschedError as problem:
                if not follow:
                    raise
                pause_s = pauses.after_silence(problem)
            await asyncio.sleep(pause_s)

    async def explain(self, batch_id: str) -> Explanation:
        """Why it runs when and where it does."""
        return await self._client.send(calls.explain_batch(batch_id))

    async def report(self, batch_id: str) -> Report:
        """Its energy, grams and savings."""
        return await self._client.send(calls.report(batch_id))

    async def request_shares(self, batch_id: str) -> AsyncIterator[RequestShare]:
        """What each of its requests cost, once it has ended."""
        lines = calls.Lines()
        async for block in self._client.blocks(calls.request_shares_path(batch_id)):
            for line in lines.feed(block):
                yield calls.request_share(line)

    async def books(self, batch_id: str) -> Books:
        """What was entered in its books since it ended: what it cost by pool and hour, and corrections."""
        return await self._client.send(calls.books(batch_id))

    async def plot(self, batch_id: str, image_format: PlotFormat = "png") -> bytes:
        """An image: intensity, forecast band, and when the batch ran."""
        return await self._client.send(calls.plot(batch_id, image_format))


class AsyncModels:
    """`client.models`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[Model, ...]:
        """The models that batches may name."""
        return await self._client.send(calls.models())
