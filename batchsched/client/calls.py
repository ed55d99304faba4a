"""The requests that both clients send and how they read the answers: pure functions, so that the twins share all but waiting."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any, Generic, Literal, TypedDict, TypeVar

import msgspec

from batchsched.client.answers import OutputLine
from batchsched.client.results import (
    TERMINAL,
    Batch,
    Books,
    Explanation,
    File,
    Key,
    Model,
    Page,
    PoolEnergy,
    Report,
    RequestShare,
    Slice,
)
from batchsched.errors import BatchschedError, InvalidRequest, ServerError, ServerUnreachable
from batchsched.paths import CURSOR_HEADER, PREFIX, STATUS_HEADER
from batchsched.units import iso

T = TypeVar("T")
PlotFormat = Literal["png", "svg"]
SliceBy = Literal["batch", "tenant", "pool", "site", "chunk"]
PAGE = 100
OWN_KEY = "once-"
"""Before the idempotency keys that we give."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how its answer is read. `options` are transport.request's."""

    method: str
    path: str
    decode: Callable[[bytes], T]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def connection(server: str | None, api_key: str | None) -> tuple[str, str]:
    """Server URL and API key: as given, else from the environment and the configuration file."""
    if server is not None and api_key is not None:
        return server, api_key
    from batchsched import settings

    known = settings.load().settings
    return server or known.worker.server_url, known.server.api_key if api_key is None else api_key


def _plain(object_id: str) -> str:
    """An id that is one part of a path, whoever it comes from. Raises InvalidRequest."""
    if not re.fullmatch(r"[\w-]+", object_id, re.ASCII):
        raise InvalidRequest(f"'{object_id}' is not an id.")
    return object_id


def typed(kind: type[T]) -> Callable[[bytes], T]:
    """Reads an answer as one of our types. Raises ServerError."""

    def decode(content: bytes) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise ServerError(
                f"The server's answer cannot be read as a {kind.__name__}: {problem}.", hint="Is this a batchsched server?"
            ) from problem

    return decode


def whole(kind: type[T]) -> Callable[[bytes], T]:
    """Decode, and keep the answer as it came in `everything`."""

    def decode(content: bytes) -> T:
        tree = typed(dict)(content)
        return typed(kind)(msgspec.json.encode({**tree, "everything": tree}))

    return decode


output_line = typed(OutputLine)
read_report = whole(Report)


def _nothing(_: bytes) -> None:
    return None


@contextmanager
def opened(file: str | Path | IO[bytes]) -> Generator[tuple[str, IO[bytes]]]:
    """The name and the bytes of a file on disk, or of one that is open already, which stays so; they can be read twice."""
    if isinstance(file, str | Path):
        with Path(file).open("rb") as stream:
            yield Path(file).name, stream
        return
    named: Any = getattr(file, "name", None)
    name = Path(named).name if isinstance(named, str) else "requests.jsonl"
    if file.seekable():
        yield name, file
        return
    with TemporaryFile() as kept:  # a pipe is read once, and a second try must send it whole
        copyfileobj(file, kept)
        kept.seek(0)
        yield name, kept


def create_file(name: str, stream: IO[bytes], purpose: str) -> Call[File]:
    """`stream` is read in blocks while it is sent."""
    files = {"file": (name, stream, "application/jsonl")}
    return Call("POST", "/v1/files", typed(File), {"data": {"purpose": purpose}, "files": files})


def retrieve_file(file_id: str) -> Call[File]:
    return Call("GET", f"/v1/files/{_plain(file_id)}", typed(File))


def delete_file(file_id: str) -> Call[None]:
    return Call("DELETE", f"/v1/files/{_plain(file_id)}", _nothing)


def list_page(kind: str, after: str | None, **filters: str | None) -> Call[Page]:
    """One page of `files`, `batches` or `batchsched/keys`."""
    asked = {"limit": str(PAGE), "after": after, **filters}
    return Call("GET", f"/v1/{kind}", typed(Page), {"params": {key: value for key, value in asked.items() if value}})


def items(page: Page, kind: type[T]) -> list[T]:
    """The objects of a page."""
    decode = typed(kind)
    return [decode(bytes(raw)) for raw in page.data]


def content_path(file_id: str) -> str:
    """Where a file's content is."""
    return f"/v1/files/{_plain(file_id)}/content"


OnDeadline = Literal["expire", "finish"]


class BatchOptions(TypedDict, total=False):
    """What may be said about a batch beside its input; all of it optional.

    `deadline`: a duration such as `6h`, or an instant; wins over `completion_window` (OpenAI's field, 24h unless given).
    `confidence`: asked probability of keeping the deadline. `sites`, `zones`: where it may run, a rule that nothing breaks.
    `on_deadline`: `expire` stops there and keeps what is done, `finish` goes on. `require_feasible`: refuse the batch where the
    deadline cannot be kept. `uniform`: one model and GPU type for all requests. `priority`: from -100 to 100 (default 0); among a
    tenant's batches the higher goes first. `models`: further models that will do, beside the one that the lines name.
    """

    endpoint: str
    deadline: str | datetime | None
    completion_window: str
    metadata: dict[str, str] | None
    confidence: float | None
    models: Sequence[str] | None
    sites: Sequence[str] | None
    zones: Sequence[str] | None
    on_deadline: OnDeadline | None
    require_feasible: bool | None
    uniform: bool | None
    priority: int | None


def create_batch(input_file_id: str, options: BatchOptions, idempotency_key: str | None) -> Call[Batch]:
    """OpenAI's fields at the top, ours under one key; what was not asked is left to the server's defaults.

    Without a key of the caller's it has one of its own, so that it can be sent again where the answer was lost.
    """
    extras = asked(**options)
    body: dict[str, Any] = {
        "input_file_id": input_file_id,
        "endpoint": extras.pop("endpoint", "/v1/chat/completions"),
        "completion_window": extras.pop("completion_window", "24h"),
        "metadata": extras.pop("metadata", {}),
    }
    if extras:
        body["batchsched"] = msgspec.to_builtins(extras)
    key = idempotency_key or f"{OWN_KEY}{os.urandom(16).hex()}"
    return Call("POST", "/v1/batches", typed(Batch), {"json": body, "headers": {"idempotency-key": key}})


def asked(**values: Any) -> dict[str, Any]:
    """What was said, as JSON."""
    return {key: iso(value) if isinstance(value, datetime) else value for key, value in values.items() if value is not None}


def one_input(input_file_id: str | None, file: object) -> None:
    """Exactly one of the two ways to name the input."""
    if (input_file_id is None) == (file is None):
        raise InvalidRequest("Give either input_file_id or file.")


def retrieve_batch(batch_id: str) -> Call[Batch]:
    return Call("GET", f"/v1/batches/{_plain(batch_id)}", typed(Batch))


def cancel_batch(batch_id: str, *, dry_run: bool = False) -> Call[Batch]:
    return Call("POST", f"/v1/batches/{_plain(batch_id)}/cancel", typed(Batch), only_seen(dry_run))


def pause_batch(batch_id: str, *, dry_run: bool = False) -> Call[Batch]:
    return Call("POST", f"{PREFIX}/batches/{_plain(batch_id)}/pause", typed(Batch), only_seen(dry_run))


def resume_batch(batch_id: str, *, dry_run: bool = False) -> Call[Batch]:
    return Call("POST", f"{PREFIX}/batches/{_plain(batch_id)}/resume", typed(Batch), only_seen(dry_run))


def start_batch(batch_id: str, *, dry_run: bool = False) -> Call[Batch]:
    return Call("POST", f"{PREFIX}/batches/{_plain(batch_id)}/start", typed(Batch), only_seen(dry_run))


def retry_batch(batch_id: str, deadline: str | datetime | None, *, dry_run: bool = False) -> Call[Batch]:
    options = {"json": asked(deadline=deadline), **only_seen(dry_run)}
    return Call("POST", f"{PREFIX}/batches/{_plain(batch_id)}/retry", typed(Batch), options)


class Changes(TypedDict, total=False):
    """What may be changed about a batch that has not ended. `deadline`: a duration from now such as `4h`, or an instant."""

    deadline: str | datetime | None
    priority: int | None
    metadata: dict[str, str] | None


def update_batch(batch_id: str, changes: Changes, *, dry_run: bool = False) -> Call[Batch]:
    options = {"json": asked(**changes), **only_seen(dry_run)}
    return Call("POST", f"{PREFIX}/batches/{_plain(batch_id)}", typed(Batch), options)


def delete_batch(batch_id: str) -> Call[None]:
    return Call("DELETE", f"{PREFIX}/batches/{_plain(batch_id)}", _nothing)


def explain_batch(batch_id: str) -> Call[Explanation]:
    return Call("GET", f"{PREFIX}/batches/{_plain(batch_id)}/explain", typed(Explanation))


def report(batch_id: str) -> Call[Report]:
    return Call("GET", f"{PREFIX}/batches/{_plain(batch_id)}/report", read_report)


def report_of_all(start: datetime | None, end: datetime | None) -> Call[Report]:
    """Of the batches that were created in a span."""
    return Call("GET", f"{PREFIX}/report", read_report, {"params": _from_to(start, end)})


class Slices(tuple[Slice, ...]):
    """All of them; `notes` says what is left out."""

    notes: tuple[str, ...] = ()


def slices(by: SliceBy, batch_id: str | None, start: datetime | None, end: datetime | None) -> Call[Slices]:
    """Of one batch, or of all work that began in a span."""
    params = {"by": by, **({"batch_id": batch_id} if batch_id else {}), **_from_to(start, end)}
    return Call("GET", f"{PREFIX}/report/slices", _slices, {"params": params})


class _Noted(Page, frozen=True):
    notes: tuple[str, ...] = ()


def _slices(content: bytes) -> Slices:
    page = typed(_Noted)(content)
    found = Slices(items(page, Slice))
    found.notes = page.notes
    return found


def meters(start: datetime | None, end: datetime | None) -> Call[tuple[PoolEnergy, ...]]:
    """Of every pool."""
    return Call("GET", f"{PREFIX}/report/meters", listed(PoolEnergy), {"params": _from_to(start, end)})


def _from_to(start: datetime | None, end: datetime | None) -> dict[str, str]:
    return {name: iso(at) for name, at in (("from", start), ("to", end)) if at is not None}


def listed(kind: type[T]) -> Callable[[bytes], tuple[T, ...]]:
    """Reads an answer as a list of our types."""
    return lambda content: tuple(items(typed(Page)(content), kind))


def only_seen(dry_run: bool) -> dict[str, Any]:
    """What a call that may change nothing sends along."""
    return {"params": {"dry_run": "true"}} if dry_run else {}


def request_shares_path(batch_id: str) -> str:
    """Where each request's share is told, a line each."""
    return f"{PREFIX}/batches/{_plain(batch_id)}/report/requests"


request_share = typed(RequestShare)


def books(batch_id: str) -> Call[Books]:
    """Of one batch."""
    return Call("GET", f"{PREFIX}/batches/{_plain(batch_id)}/books", typed(Books))


def plot(batch_id: str, image_format: PlotFormat) -> Call[bytes]:
    return Call("GET", f"{PREFIX}/batches/{_plain(batch_id)}/plot", bytes, {"params": {"format": image_format}})


def create_key(scopes: Sequence[str], *, name: str = "", tenant: str | None = None, expires: str | None = None) -> Call[Key]:
    body = {"scopes": list(scopes), "name": name, "tenant": tenant, "expires": expires}
    return Call("POST", f"{PREFIX}/keys", typed(Key), {"json": body})


def read_keys(page: Page) -> list[Key]:
    """The keys of a page of `batchsched/keys`."""
    return items(page, Key)


def revoke_key(key_id: str, *, dry_run: bool = False) -> Call[Key]:
    return Call("POST", f"{PREFIX}/keys/{_plain(key_id)}/revoke", typed(Key), only_seen(dry_run))


def models() -> Call[tuple[Model, ...]]:
    return Call("GET", "/v1/models", listed(Model))


class Lines:
    """Cuts blocks of bytes into lines. (httpx would cut at U+2028 as well, which may stand inside a JSON string.)"""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that this block completes."""
        *whole, self._rest = (self._rest + block).split(b"\n")
        return [line for line in whole if line.strip()]

    def end(self) -> list[bytes]:
        """A last line without its newline."""
        return [self._rest] if self._rest.strip() else []


class Following:
    """A batch's results as they appear. With `once`, each request's once, over a server's restart and the merging at the end."""

    def __init__(self, batch_id: str, once: bool) -> None:
        self.path = f"{PREFIX}/batches/{_plain(batch_id)}/results"
        self.params: dict[str, str] = {}
        self._once = once
        self._seen: set[str] = set()

    def fresh(self, lines: Sequence[bytes]) -> Iterator[OutputLine]:
        """Those of these lines that were not seen before."""
        for line in map(output_line, lines):
            if line.custom_id not in self._seen:
                if self._once:
                    self._seen.add(line.custom_id)
                yield line

    def ended(self, headers: Mapping[str, str]) -> bool:
        """An answer was read whole: go on behind it, unless it was the last."""
        self.params = {"cursor": headers.get(CURSOR_HEADER, "")}
        return headers.get(STATUS_HEADER) in TERMINAL


class Pauses:
    """How long to wait between two looks at a batch: short at first, then `longest_s`; and for how long no answer is borne."""

    def __init__(self, longest_s: float, patience_s: float) -> None:
        self._next_s = 0.25
        self._longest_s = longest_s
        self._patience_s = patience_s
        self._silent_s = 0.0

    def after_answer(self) -> float:
        """Seconds to wait after the server answered."""
        self._silent_s = 0.0
        pause_s = min(self._next_s, self._longest_s)
        self._next_s *= 1.5
        return pause_s

    def after_silence(self, problem: BatchschedError) -> float:
        """Seconds to wait after the server did not answer; raises `problem` if it is of another kind, or has lasted too long."""
        away = isinstance(problem, ServerUnreachable) or problem.http_status == ServerUnreachable.http_status
        if not away or self._silent_s >= self._patience_s:
            raise problem
        self._silent_s += 2.0
        return 2.0
