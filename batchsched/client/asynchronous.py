"""The asynchronous client: `Client`, with await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, TypeVar, Unpack

from batchsched.client import calls, forecasts, plans, profiles, windows
from batchsched.client.answers import OutputLine
from batchsched.client.async_runs import AsyncRunner
from batchsched.client.calls import BatchOptions, Call, Changes, PlotFormat, SliceBy, Slices
from batchsched.client.forecasts import Backfilled, Forecast, ForecastFeed, Imported, Skill, Trained, Which
from batchsched.client.frames import AsyncResults
from batchsched.client.plans import Plan, PoolStatus, Question, Replayed, Shifting, WhatIf
from batchsched.client.profiles import Profiles
from batchsched.client.recurring import AsyncSchedules
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
from batchsched.client.windows import Window, WindowOptions
from batchsched.errors import BatchschedError
from batchsched.transport import AsyncTransport

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
        self.forecasts = AsyncForecasts(self)
        self.windows = AsyncWindows(self)
        self.schedules = AsyncSchedules(self)
        self.plans = AsyncPlans(self)
        self.pools = AsyncPools(self)

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
        found = await self.send(plans.plan())
        return found.drawn_by(lambda: plans.fetched(self._transport.another()))

    async def profiles(self) -> Profiles:
        """How fast and at what power each pool runs each model, and how long answers are."""
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
        away for up to about `patience_s` is waited for. One by one, or `.to_pandas()`, `.to_polars()`.
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


class AsyncForecasts:
    """`client.forecasts`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[ForecastFeed, ...]:
        """Who says what about which zone."""
        return await self._client.send(forecasts.feeds())

    async def retrieve(self, zone: str, **which: Unpack[Which]) -> Forecast:
        """A zone's forecast as it is known now, or was known at `as_of`."""
        return await self._client.send(forecasts.forecast(zone, which))

    async def plot(self, zone: str, image_format: PlotFormat = "png", **which: Unpack[Which]) -> bytes:
        """An image of it: the band, what came true, the present hour."""
        return await self._client.send(forecasts.forecast_plot(zone, image_format, which))

    async def import_file(self, file: str | Path, *, provider: str | None = None, signal: str | None = None) -> Imported:
        """Put a file's forecasts and measurements into the server's archive, as known from now on.

        `provider`: the name to keep them under, if not the file's own. `signal`: which to take, where the file has several.
        """
        path = Path(file)
        with path.open("rb") as stream:  # noqa: ASYNC230 - httpx reads it block by block
            return await self._client.send(forecasts.import_file(path, stream, provider, signal))

    async def backfill(self, zone: str, start: datetime | str, end: datetime | str | None = None) -> tuple[Backfilled, ...]:
        """Let the server ask the zone's sources what came true in [start, end), at most 31 days, and keep it.

        It may take minutes. The end that is left out is now.
        """
        return await self._client.send(forecasts.backfill(zone, start, end))

    async def train(self, zone: str) -> Trained:
        """Let the server's own models learn a zone anew from what is known now; seconds to a minute."""
        return await self._client.send(forecasts.train(zone))

    async def evaluate(
        self, zone: str, start: datetime | str | None = None, end: datetime | str | None = None
    ) -> tuple[Skill, ...]:
        """How good each provider's forecasts of [start, end) were (default: of the last four weeks), by days of lead."""
        return await self._client.send(forecasts.evaluate(zone, start, end))

    async def plot_evaluation(
        self,
        zone: str,
        image_format: PlotFormat = "png",
        start: datetime | str | None = None,
        end: datetime | str | None = None,
    ) -> bytes:
        """An image of it: error and coverage by hours of lead."""
        return await self._client.send(forecasts.evaluation_plot(zone, image_format, start, end))


class AsyncWindows:
    """`client.windows`. With `dry_run` nothing is kept: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[Window, ...]:
        """All of them, each with its next opening."""
        return await self._client.send(windows.every())

    async def retrieve(self, name: str, *, openings: int = 10) -> Window:
        """One of them, with so many openings to come."""
        return await self._client.send(windows.one(name, openings))

    async def add(
        self, name: str, *, pool: str, cron: str, duration: str, dry_run: bool = False, **options: Unpack[WindowOptions]
    ) -> Window:
        """Make one: it opens when the cron line matches its clock, for that long."""
        return await self._client.send(windows.add(name, pool, cron, duration, options, dry_run=dry_run))

    async def remove(self, name: str, *, dry_run: bool = False) -> None:
        """Remove one that the configuration does not declare. A pool without any is always open."""
        await self._client.send(windows.remove(name, dry_run=dry_run))

    async def pause(self, name: str, *, until: str | datetime | None = None, dry_run: bool = False) -> Window:
        """Let it open nothing, until it is resumed or until then."""
        return await self._client.send(windows.change(name, "pause", dry_run=dry_run, until=until))

    async def resume(self, name: str, *, dry_run: bool = False) -> Window:
        """Let it open again as it is declared; what was to be skipped is not."""
        return await self._client.send(windows.change(name, "resume", dry_run=dry_run))

    async def skip(self, name: str, *, count: int = 1, current: bool = False, dry_run: bool = False) -> Window:
        """Leave out its next openings; with `current` end the one that is on instead."""
        return await self._client.send(windows.change(name, "skip", dry_run=dry_run, count=count, current=current))

    async def extend(
        self, name: str, *, by: str | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> Window:
        """Keep it open from now on: `by` so much longer than it would be, or `until` then. One of the two."""
        return await self._client.send(windows.change(name, "extend", dry_run=dry_run, by=by, until=until))


class AsyncPlans:
    """`client.plans`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def plot(self, image_format: PlotFormat = "png") -> bytes:
        """An image of the plan in force: pools by time, over intensity with its band."""
        return await self._client.send(plans.plot(image_format))

    async def what_if(self, **question: Unpack[Question]) -> WhatIf:
        """What would be, were something another: grams by prices and by solving again, and who would be late. Nothing changes."""
        return await self._client.send(plans.what_if(question))

    async def replay(self, at: datetime | str | None = None, *, number: int | None = None) -> Replayed:
        """The plan that was in force at an instant, or of that number (the last where neither is given), made again."""
        return await self._client.send(plans.replay(at, number))

    async def freeze(self, until: str | datetime | None = None, *, dry_run: bool = False) -> Shifting:
        """Shift nothing more: work starts at once where there is room, the earliest deadline first."""
        return await self._client.send(plans.freeze(until, dry_run=dry_run))

    async def unfreeze(self, *, dry_run: bool = False) -> Shifting:
        """Shift again."""
        return await self._client.send(plans.unfreeze(dry_run=dry_run))


class AsyncPools:
    """`client.pools`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[PoolStatus, ...]:
        """The pools, and how each stands."""
        return await self._client.send(plans.pools())

    async def cordon(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Lease nothing new to it and plan nothing there; what runs goes on. From now on and until it is opened, if not said."""
        return await self._client.send(plans.close_pool(pool, "cordon", since, until, dry_run=dry_run))

    async def drain(
        self, pool: str, *, since: str | datetime | None = None, until: str | datetime | None = None, dry_run: bool = False
    ) -> PoolStatus:
        """Cordon it, and have what runs given back unfinished."""
        return await self._client.send(plans.close_pool(pool, "drain", since, until, dry_run=dry_run))

    async def open(self, pool: str, *, dry_run: bool = False) -> PoolStatus:
        """Let it work again."""
        return await self._client.send(plans.open_pool(pool, dry_run=dry_run))
