"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, Unpack

from batchsched.client import calls
from batchsched.client.answers import OutputLine
from batchsched.client.calls import BatchOptions, Call, Changes, PlotFormat, SliceBy, Slices
from batchsched.client.frames import Results
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
from batchsched.client.running import Runner
from batchsched.client.showing import watch
from batchsched.errors import BatchschedError
from batchsched.transport import Transport

if TYPE_CHECKING:
    from batchsched.client.forecasting import Forecasts
    from batchsched.client.operating import Plans, Pools
    from batchsched.client.plans import Plan
    from batchsched.client.profiles import Profiles
    from batchsched.client.recurring import Schedules
    from batchsched.client.windowing import Windows

T = TypeVar("T")


class Client(Runner):
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
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            transport = Transport(*calls.connection(server, api_key), timeout_s, max_retries)
        self._transport = transport
        self.files = Files(self)
        self.batches = Batches(self)
        self.models = Models(self)

    @cached_property
    def forecasts(self) -> Forecasts:
        """What is known of the grid. It is imported when it is first used, as are those below."""
        from batchsched.client.forecasting import Forecasts

        return Forecasts(self)

    @cached_property
    def windows(self) -> Windows:
        """When pools are open."""
        from batchsched.client.windowing import Windows

        return Windows(self)

    @cached_property
    def schedules(self) -> Schedules:
        """Jobs that recur."""
        from batchsched.client.recurring import Schedules

        return Schedules(self)

    @cached_property
    def plans(self) -> Plans:
        """Questions to the plan, and whether it shifts work."""
        from batchsched.client.operating import Plans

        return Plans(self)

    @cached_property
    def pools(self) -> Pools:
        """What computes."""
        from batchsched.client.operating import Pools

        return Pools(self)

    def with_options(self, *, timeout_s: float | None = None, max_retries: int | None = None) -> Client:
        """The same client with other patience: `client.with_options(timeout_s=5).batches.retrieve(...)`. Connections are shared,
        and closed with either."""
        return Client(transport=self._transport.with_options(timeout_s, max_retries))

    @property
    def server(self) -> str:
        """The URL that it speaks to."""
        return self._transport.base_url

    def plan(self) -> Plan:
        """The plan in force."""
        from batchsched.client import plans

        found = self.send(plans.plan())
        return found.drawn_by(lambda: plans.fetched(self._transport.another()))

    def profiles(self) -> Profiles:
        """How fast and at what power each pool runs each model, and how long answers are."""
        from batchsched.client import profiles

        return self.send(profiles.profiles())

    def report(self, start: datetime | None = None, end: datetime | None = None) -> Report:
        """The report over all batches that were created in [start, end); of very many over the newest, as its first note says."""
        return self.send(calls.report_of_all(start, end))

    def slices(
        self, by: SliceBy = "batch", *, batch_id: str | None = None, start: datetime | None = None, end: datetime | None = None
    ) -> Slices:
        """What work cost in slices: of one batch, or of all that began in [start, end)."""
        return self.send(calls.slices(by, batch_id, start, end))

    def meters(self, start: datetime | None = None, end: datetime | None = None) -> tuple[PoolEnergy, ...]:
        """What the meters of each pool saw in the hours that begin in [start, end), and where it went."""
        return self.send(calls.meters(start, end))

    def send(self, call: Call[T]) -> T:
        """Send one request and read its answer."""
        return call.decode(self._transport.request(call.method, call.path, **call.options).content)

    def blocks(self, path: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Iterator[bytes]:
        """The content behind a path, as it arrives; the answer's headers go into `headers`."""
        with self._transport.stream("GET", path, params=params) as response:
            (headers if headers is not None else {}).update(response.headers)
            yield from response.iter_bytes()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._transport.base_url!r})"


class Files:
    """`client.files`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, file: str | Path | IO[bytes], *, purpose: str = "batch") -> File:
        """Upload a file from disk, or one that is open for reading bytes, from its beginning; it is streamed, never read whole.
        A pipe is kept in a temporary file meanwhile: where the first try fails, the second sends all of it."""
        with calls.opened(file) as (name, stream):
            return self._client.send(calls.create_file(name, stream, purpose))

    def retrieve(self, file_id: str) -> File:
        """One file's description."""
        return self._client.send(calls.retrieve_file(file_id))

    def list(self, *, purpose: str | None = None) -> Iterator[File]:
        """All files, newest first, fetched page by page."""
        after, more = None, True
        while more:
            page = self._client.send(calls.list_page("files", after, purpose=purpose))
            yield from calls.items(page, File)
            after, more = page.last_id, page.has_more

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._client.send(calls.delete_file(file_id))

    def content(self, file_id: str) -> bytes:
        """A file's content, whole in memory."""
        return b"".join(self._client.blocks(calls.content_path(file_id)))

    def download(self, file_id: str, to: str | Path) -> Path:
        """Stream a file's content to disk; `to` appears only once it is complete."""
        path = Path(to)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as out:
            for block in self._client.blocks(calls.content_path(file_id)):
                out.write(block)
        return part.replace(path)


class Batches:
    """`client.batches`. With `dry_run` nothing changes: the answer says what would be."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
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
        file_id = input_file_id or self._client.files.create(file or "").id
        batch = self._client.send(calls.create_batch(file_id, options, idempotency_key))
        if file and batch.input_file_id != file_id:  # it was submitted before, with a copy of its own
            self._client.files.delete(file_id)
        return batch

    def retrieve(self, batch_id: str) -> Batch:
        """One batch as it stands."""
        return self._client.send(calls.retrieve_batch(batch_id))

    def list(self) -> Iterator[Batch]:
        """All batches, newest first, fetched page by page."""
        after, more = None, True
        while more:
            page = self._client.send(calls.list_page("batches", after))
            yield from calls.items(page, Batch)
            after, more = page.last_id, page.has_more

    def cancel(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Ask for its end; what is done is kept."""
        return self._client.send(calls.cancel_batch(batch_id, dry_run=dry_run))

    def delete(self, batch_id: str) -> None:
        """Delete what an ended batch holds: results, errors, metadata, and its input where no other batch has it."""
        self._client.send(calls.delete_batch(batch_id))

    def pause(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let nothing more of it start; its deadline holds all the same."""
        return self._client.send(calls.pause_batch(batch_id, dry_run=dry_run))

    def resume(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let a paused batch go on."""
        return self._client.send(calls.resume_batch(batch_id, dry_run=dry_run))

    def start(self, batch_id: str, *, dry_run: bool = False) -> Batch:
        """Let it wait no longer for a better hour or place; other deadlines hold all the same."""
        return self._client.send(calls.start_batch(batch_id, dry_run=dry_run))

    def retry(self, batch_id: str, *, deadline: str | datetime | None = None, dry_run: bool = False) -> Batch:
        """Run again only what failed or was left undone of a batch that ended; without `deadline`, for as long as at first."""
        return self._client.send(calls.retry_batch(batch_id, deadline, dry_run=dry_run))

    def update(self, batch_id: str, *, dry_run: bool = False, **changes: Unpack[Changes]) -> Batch:
        """Change its deadline (which brings a new verdict), priority or metadata; what is not named stays."""
        return self._client.send(calls.update_batch(batch_id, changes, dry_run=dry_run))

    def wait(
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
                    batch = self.retrieve(batch_id)
                except BatchschedError as problem:
                    pause_s = pauses.after_silence(problem)
                else:
                    look(batch)
                    if batch.done:
                        return batch
                    pause_s = pauses.after_answer()
                time.sleep(pause_s)

    def results(
        self, batch_id: str, *, follow: bool = False, poll_s: float = 2.0, patience_s: float = 60.0
    ) -> Results[OutputLine]:
        """Every result that is there, also while it runs; once it is done, the answers, then the errors. Match them by custom_id.

        With `follow`, results as they appear, until the batch is done; looks are at most `poll_s` apart, and a server that is
        away for up to about `patience_s` is waited for. One by one, or `.to_pandas()`, `.to_polars()`, `.to_arrow()`.
        """
        return Results(self._results(batch_id, follow, poll_s, patience_s))

    def _results(self, batch_id: str, follow: bool, poll_s: float, patience_s: float) -> Iterator[OutputLine]:
        following, pauses = calls.Following(batch_id, follow), calls.Pauses(poll_s, patience_s)
        while True:
            try:
                headers, lines = dict[str, str](), calls.Lines()
                for block in self._client.blocks(following.path, following.params, headers):
                    yield from following.fresh(lines.feed(block))
                if following.ended(headers) or not follow:
                    return
                pause_s = pauses.after_answer()
            except BatchschedError as problem:
                if not follow:
                    raise
                pause_s = pauses.after_silence(problem)
            time.sleep(pause_s)

    def explain(self, batch_id: str) -> Explanation:
        """Why it runs when and where it does."""
        return self._client.send(calls.explain_batch(batch_id))

    def report(self, batch_id: str) -> Report:
        """Its energy, grams and savings."""
        return self._client.send(calls.report(batch_id))

    def request_shares(self, batch_id: str) -> Iterator[RequestShare]:
        """What each of its requests cost, once it has ended."""
        lines = calls.Lines()
        for block in self._client.blocks(calls.request_shares_path(batch_id)):
            yield from map(calls.request_share, lines.feed(block))

    def books(self, batch_id: str) -> Books:
        """What was entered in its books since it ended: what it cost by pool and hour, and corrections."""
        return self._client.send(calls.books(batch_id))

    def plot(self, batch_id: str, image_format: PlotFormat = "png") -> bytes:
        """An image: intensity, forecast band, and when the batch ran."""
        return self._client.send(calls.plot(batch_id, image_format))


class Models:
    """`client.models`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> tuple[Model, ...]:
        """The models that batches may name."""
        return self._client.send(calls.models())
