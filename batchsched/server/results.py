"""A batch's results as one stream of lines, while it runs and after: answers and errors alike, a cursor for what comes later."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec
from fastapi import APIRouter
from starlette.responses import StreamingResponse

from batchsched.errors import InvalidValue, StorageUnavailable
from batchsched.queue import batches, chunks, files
from batchsched.queue.rows import Row
from batchsched.queue.states import TERMINAL
from batchsched.queue.store import Store
from batchsched.queue.tenancy import Tenant
from batchsched.server.auth import GUARDED, Who
from batchsched.server.cursor import Cursor
from batchsched.server.runtime import Runtime
from batchsched.wire import CURSOR_HEADER, PREFIX, STATUS_HEADER

BLOCK_BYTES = 1 << 18


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"], dependencies=GUARDED)

    @routes.get("/batches/{batch_id}/results")
    def batch_results(batch_id: str, who: Who, cursor: str | None = None) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        """The lines that are recorded so far, or since `cursor`; at the end of a batch a line may come a second time."""
        told = read(runtime, batch_id, who.tenant, Cursor.parse(cursor) if cursor is not None else None)
        headers = {CURSOR_HEADER: str(told.cursor), STATUS_HEADER: told.status, "x-content-type-options": "nosniff"}
        return StreamingResponse(told.blocks, media_type="application/jsonl", headers=headers)

    return routes


class Told(msgspec.Struct, frozen=True):
    """What a reader gets: `status` is the batch's when it was read, `cursor` where the reader stands after these blocks."""

    blocks: Iterator[bytes]
    cursor: Cursor
    status: str


def read(runtime: Runtime, batch_id: str, tenant: Tenant, cursor: Cursor | None) -> Told:
    """What was recorded since `cursor`. Raises NotFound, also where result files are gone; InvalidValue; StorageUnavailable."""
    told = _look(runtime, batch_id, tenant, cursor)
    try:
        first = next(told.blocks, b"")
    except StorageUnavailable:  # merged since we looked, and the chunks' results put away?
        told = _look(runtime, batch_id, tenant, cursor)
        if told.status not in TERMINAL:
            raise
        first = b""
    return Told(itertools.chain([first], told.blocks), told.cursor, told.status)


def _look(runtime: Runtime, batch_id: str, tenant: Tenant, cursor: Cursor | None) -> Told:
    with runtime.database.read() as connection:
        batch = batches.get(connection, batch_id, tenant)
        if cursor is None or cursor.round != batch["round"]:
            cursor = Cursor(batch["round"])
        if batch["state"] in TERMINAL:
            for file_id in _files(batch):
                files.get(connection, file_id, tenant)
            found = chunks.of_batch(connection, batch_id) if cursor.whole else []
            end = Cursor(batch["round"], ended=True)
            return Told(iter(()) if cursor.ended else _merged(runtime.store, batch, found, cursor), end, batch["state"])
        # Until a retry has its answers back, the chunks still name what was put away.
        rows = [] if batch["reopen"] else chunks.with_results(connection, batch_id, cursor.first)
    fresh, after = cursor.advance(rows)
    return Told(_blocks(recorded(runtime.store, fresh)), after, batch["state"])


def _files(batch: Row) -> list[str]:
    return [file_id for file_id in (batch["output_file_id"], batch["error_file_id"]) if file_id]


def recorded(store: Store, fresh: Iterable[tuple[Row, int]]) -> Iterator[bytes]:
    """The lines of chunks, each from a byte on. Raises InvalidValue where that is in the middle of one."""
    for chunk, start in fresh:
        try:
            for record in store.records(chunk, start):
                yield record.output
        except ValueError:
            raise InvalidValue("'cursor' does not belong to this batch; leave it out to begin anew.", param="cursor") from None


def _merged(store: Store, batch: Row, rows: list[Row], cursor: Cursor) -> Iterator[bytes]:
    """The output file, then the error file, without the chunks that were read whole: both keep the order of the chunks."""
    if not rows:
        for file_id in _files(batch):
            yield from store.blocks(file_id)
        return
    for file_id in _files(batch):
        lines = _lines(store.blocks(file_id))
        counts = ((row, row["completed"]) for row in rows)
        if file_id == batch["error_file_id"]:
            counts = ((row, row["lines"] - row["completed"]) for row in rows)
        yield from _blocks(_unread(lines, counts, cursor))


def _unread(lines: Iterator[bytes], counts: Iterable[tuple[Row, int]], cursor: Cursor) -> Iterator[bytes]:
    for row, count in counts:
        mine = itertools.islice(lines, count)
        if cursor.has(row["position"]):
            deque(mine, maxlen=0)
        else:
            yield from mine


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines together, a block at a time."""
    block = bytearray()
    for line in lines:
        block += line
        block += b"\n"
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)
