"""Routes of OpenAI's Files API."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec
from anyio import CapacityLimiter, fail_after, from_thread, to_thread
from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from batchsched.errors import Conflict, DatabaseUnavailable, InvalidRequest, MissingParameter
from batchsched.queue import batches, files
from batchsched.queue.store import Store, begun
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.objects import file_object, list_object
from batchsched.server.options import expires_after_s
from batchsched.server.runtime import Runtime
from batchsched.server.uploads import Form, Local, Received, purpose_of, receive
from batchsched.settings import Retention

BLOCK_BYTES = 1 << 18
MOST_UPLOADS = 16
"""At once; more wait for their turn. They have threads of their own, so that slow senders keep no other request waiting."""
IDLE_S = 120.0
"""An upload that does not bring a block in so many seconds is given up."""


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["Files"], dependencies=GUARDED)
    database, store = runtime.database, runtime.store
    uploads = CapacityLimiter(MOST_UPLOADS)

    @routes.post("/v1/files")
    async def create_file(request: Request, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Upload a file. It is there whole, and synced to the disk, when this answers."""
        return await to_thread.run_sync(_take_in, runtime, request, who, limiter=uploads)

    @routes.get("/v1/files")
    def list_files(  # pyright: ignore[reportUnusedFunction]
        who: Who,
        purpose: str | None = None,
        limit: int = Query(10_000, ge=1, le=10_000),
        order: str = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        """Files, newest first unless asked otherwise."""
        if order not in {"asc", "desc"}:
            raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order")
        with database.read() as connection:
            rows = files.page(connection, who.tenant, limit=limit + 1, newest_first=order == "desc", after=after, purpose=purpose)
        return list_object(rows, limit, file_object)

    @routes.get("/v1/files/{file_id}")
    def retrieve_file(file_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One file."""
        with database.read() as connection:
            return file_object(files.get(connection, file_id, who.tenant))

    @routes.delete("/v1/files/{file_id}")
    def delete_file(file_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Delete a file that no open batch needs."""
        with database.write() as connection:
            files.get(connection, file_id, who.tenant, lock=True)
            if batches.uses_file(connection, file_id):
                raise Conflict(f"File {file_id} is the input of a batch that is not finished.", hint="Cancel the batch first.")
            files.remove(connection, file_id, runtime.clock.now())
            who.did(connection, file_id)
        store.remove(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    @routes.get("/v1/files/{file_id}/content")
    def file_content(file_id: str, who: Who) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        """A file's bytes."""
        with database.read() as connection:
            row = files.get(connection, file_id, who.tenant)
        headers = {
            "content-length": str(row["bytes"]),
            "content-disposition": f'attachment; filename="{file_id}.jsonl"',
            "x-content-type-options": "nosniff",
        }
        return StreamingResponse(begun(store.blocks(file_id)), media_type="application/octet-stream", headers=headers)

    return routes


def _take_in(runtime: Runtime, request: Request, who: Caller) -> dict[str, Any]:
    """In a thread of its own: read, check, keep and record an upload."""
    with runtime.database.read() as connection:  # before the bytes are on their way; once they are there, it is asked again
        runtime.quotas.upload(connection, who.tenant)
    return _keep(runtime, who, Form(request.headers, body(request)), request.headers.get("traceparent", ""))


def keep(runtime: Runtime, who: Caller, name: str, blocks: Iterator[bytes]) -> str:
    """Keep a file for batches that lies here, as if it had been uploaded; its id. Raises PayloadTooLarge, QuotaExceeded."""
    with runtime.database.read() as connection:
        runtime.quotas.upload(connection, who.tenant)
    return str(_keep(runtime, who, Local(name, blocks))["id"])


def _keep(runtime: Runtime, who: Caller, form: Form | Local, trace: str = "") -> dict[str, Any]:
    database, store, began_at = runtime.database, runtime.store, runtime.clock.now()
    file_id = runtime.ids.new("file").replace("_", "-")
    with store.create(file_id) as handle:
        received = receive(form, handle, runtime.rules, runtime.settings.server.max_file_bytes)
        if form.filename is None:
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        purpose = purpose_of(form.fields)
        expires = _life(form.fields, purpose, runtime.settings.retention)
    now = runtime.clock.now()
    with _kept(store, file_id):
        facts, problem = _outcome(received, lambda: store.blocks(file_id))
        with database.write() as connection:
            runtime.quotas.upload(connection, who.tenant, received.size)
            files.add(
                connection,
                tenant=who.tenant,
                id=file_id,
                purpose=purpose,
                filename=form.filename[:255],
                bytes=received.size,
                sha256=received.sha256,
                status="processed",
                status_details=problem,
                created_at=now,
                expires_at=now + expires if expires else None,
                facts=facts,
            )
            who.did(connection, file_id, bytes=received.size)
            row = files.get(connection, file_id, who.tenant)
    runtime.told.uploaded(row, trace, began_at)
    return file_object(row)


def _outcome(received: Received, again: Callable[[], Iterator[bytes]]) -> tuple[Any, str | None]:
    """The facts of a file whose lines are all sound, for its row; else what is wrong with them, in a sentence."""
    checker = received.checker
    if checker is None:
        return None, None
    facts = checker.finish(again)
    if facts is not None:
        return msgspec.to_builtins(facts), None
    first = checker.errors[0]
    where = f"line {first.line}: " if first.line else ""
    return None, f"{checker.error_count} error(s); {where}{first.message}"


@contextmanager
def _kept(store: Store, file_id: str) -> Generator[None]:
    """Remove a file whose row cannot be written. Where the database went away nobody knows: then the sweep looks after it."""
    try:
        yield
    except DatabaseUnavailable:
        raise
    except BaseException:
        store.remove(file_id)
        raise


def body(request: Request) -> Iterator[bytes]:
    """The request's body, pulled from a worker thread in blocks of some size: each pull is a walk to the event loop and back."""
    stream = request.stream().__aiter__()

    async def pull() -> bytes:
        blocks, size = list[bytes](), 0
        with fail_after(IDLE_S):
            while size < BLOCK_BYTES and (block := await anext(stream, None)) is not None:
                blocks.append(block)
                size += len(block)
        return b"".join(blocks)

    try:
        while block := from_thread.run(pull):
            yield block
    except TimeoutError:
        raise InvalidRequest(f"Less than {BLOCK_BYTES} bytes came in {IDLE_S:.0f} s; nothing was kept. Send it again.") from None
    except ClientDisconnect:
        raise InvalidRequest("The upload ended too early; nothing was kept. Send it again.") from None


def _life(fields: dict[str, str], purpose: str, kept: Retention) -> timedelta | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    named = anchor is not None or seconds is not None
    asked_s = expires_after_s({"anchor": anchor, "seconds": seconds}, "expires_after") if named else None
    return kept.input_life(asked_s) if named or purpose == "batch" else None
