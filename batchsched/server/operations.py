"""Routes for what one can do with a batch beyond OpenAI: pause it, resume it, start it now, change it, retry it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from batchsched.errors import InvalidRequest
from batchsched.queue import batches, reopening, retention
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.batches import json_body
from batchsched.server.dry_run import changing
from batchsched.server.objects import batch_object
from batchsched.server.options import Change, Retry, as_long_as_first, deadline_of, form_of, metadata_of
from batchsched.server.runtime import Runtime
from batchsched.units import iso
from batchsched.wire import PREFIX


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"], dependencies=GUARDED)
    desk = Operations(runtime)

    def shown(row: Mapping[str, Any]) -> dict[str, Any]:
        return batch_object(row, runtime.reports.additions(row))

    @routes.post("/batches/{batch_id}/pause")
    def pause_batch(batch_id: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Lease nothing more of a batch; what runs is given back unfinished. Its deadline holds all the same.

        With `dry_run`, here and below, nothing is kept: the answer says what would be.
        """
        return shown(desk.pause(who, batch_id, dry_run=dry_run))

    @routes.post("/batches/{batch_id}/resume")
    def resume_batch(batch_id: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let a paused batch go on."""
        return shown(desk.resume(who, batch_id, dry_run=dry_run))

    @routes.post("/batches/{batch_id}/start")
    def start_batch(batch_id: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let a batch wait no longer: it starts as soon as a pool that may run it is free. Other deadlines hold all the same."""
        return shown(desk.start(who, batch_id, dry_run=dry_run))

    @routes.post("/batches/{batch_id}")
    async def update_batch(  # pyright: ignore[reportUnusedFunction]
        batch_id: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Change the deadline, the priority or the metadata. A new deadline brings a new verdict."""
        change = form_of(Change, await json_body(request))
        return await run_in_threadpool(lambda: shown(desk.update(who, batch_id, change, dry_run=dry_run)))

    @routes.post("/batches/{batch_id}/retry")
    async def retry_batch(  # pyright: ignore[reportUnusedFunction]
        batch_id: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take up a batch that ended: only its failed and unfinished requests run, and its results get new files."""
        retry = form_of(Retry, await json_body(request))
        return await run_in_threadpool(lambda: shown(desk.retry(who, batch_id, retry, dry_run=dry_run)))

    @routes.delete("/batches/{batch_id}")
    def delete_batch(batch_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Delete what an ended batch holds: its results, errors and metadata, and its input where no other batch has it.

        What it cost stays, and holds nothing of its content.
        """
        desk.erase(who, batch_id)
        return {"id": batch_id, "object": "batch", "deleted": True}

    return routes


class Operations:
    """What the routes do."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._database = runtime.database

    def pause(self, who: Caller, batch_id: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Pausing twice keeps the first instant. Raises NotFound, Conflict."""
        now = self._runtime.clock.now()
        return self._done(who, batch_id, lambda connection: batches.pause(connection, batch_id, now), dry_run)

    def resume(self, who: Caller, batch_id: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """No harm where it was not paused. Raises NotFound, Conflict."""
        return self._done(who, batch_id, lambda tied: batches.edit(tied, batch_id, "resumed", paused_at=None), dry_run)

    def start(self, who: Caller, batch_id: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Telling it twice keeps the first instant. Raises NotFound; Conflict where it is paused or has ended."""
        now, published = self._runtime.clock.now(), self._runtime.scheduler.published
        planned_at = published.start_at(batch_id) if published else None
        told = {"since": iso(now), "planned_at": iso(planned_at) if planned_at and planned_at > now else None}
        return self._done(who, batch_id, lambda connection: batches.start(connection, batch_id, told), dry_run)

    def update(self, who: Caller, batch_id: str, change: Change, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Raises InvalidRequest and its kin; NotFound; Conflict once it has ended."""
        values: dict[str, Any] = {}
        if change.metadata is not None:
            values["meta"] = metadata_of(change.metadata)
        if change.priority is not None:
            values["priority"] = change.priority
        if change.deadline is not None:
            values |= self._judged(who, batch_id, deadline_of(change.deadline, self._runtime.clock.now(), "deadline"))
        if not values:
            raise InvalidRequest("Say what to change: 'deadline', 'priority' or 'metadata'.")
        row = self._done(who, batch_id, lambda connection: batches.edit(connection, batch_id, "changed", **values), dry_run)
        if "deadline_at" in values and "verdict" not in values and row["state"] == "in_progress":
            # It was validated meanwhile, and judged by the deadline before.
            return self.update(who, batch_id, change, dry_run=dry_run)
        return row

    def retry(self, who: Caller, batch_id: str, retry: Retry, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Raises InvalidValue for a deadline that cannot be; NotFound; Conflict, saying why there is nothing to retry."""
        now = self._runtime.clock.now()
        deadline_at = deadline_of(retry.deadline, now, "deadline") if retry.deadline is not None else None
        grams = self._runtime.quotas.grams(who.tenant)

        def mark(connection: Connection) -> None:
            self._runtime.quotas.create(connection, who.tenant, grams)
            row = batches.get(connection, batch_id, who.tenant)
            reopening.mark(connection, row, deadline_at or as_long_as_first(row, now), now)

        row = self._done(who, batch_id, mark, dry_run)
        if not dry_run:
            self._runtime.lifecycle.poke()
        return row

    def erase(self, who: Caller, batch_id: str) -> None:
        """Doing it twice does no harm. Raises NotFound, Conflict."""
        with self._database.write() as connection:
            row = batches.get(connection, batch_id, who.tenant)
            gone = retention.erase(connection, row, self._runtime.clock.now())
            who.did(connection, batch_id)
        for file_id in gone:
            self._runtime.store.remove(file_id)

    def _judged(self, who: Caller, batch_id: str, deadline_at: datetime) -> dict[str, Any]:
        """The deadline, and its verdict where the batch is far enough for one; else its validation gives it."""
        with self._database.read() as connection:
            row = batches.get(connection, batch_id, who.tenant)
        if row["state"] != "in_progress":
            return {"deadline_at": deadline_at}
        return {"deadline_at": deadline_at, "verdict": self._runtime.scheduler.verdict({**row, "deadline_at": deadline_at})}

    def _done(self, who: Caller, batch_id: str, act: Callable[[Connection], None], dry_run: bool) -> Mapping[str, Any]:
        """The batch after the act; with `dry_run` as it would be."""
        with changing(self._database, dry_run=dry_run, then=self._runtime.scheduler.poke) as connection:
            batches.get(connection, batch_id, who.tenant)  # another tenant's batch is not there
            act(connection)
            who.did(connection, batch_id)
            return batches.get(connection, batch_id, who.tenant)
