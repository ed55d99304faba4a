"""Routes of OpenAI's Batch API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool

from batchsched.errors import Conflict, InvalidRequest, NotFound
from batchsched.lines.strict import shown
from batchsched.queue import batches, files, idempotency
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.dry_run import changing
from batchsched.server.objects import batch_object, list_object
from batchsched.server.options import NewBatch, parse_new_batch
from batchsched.server.runtime import Runtime
from batchsched.traces import place_of


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["Batches"], dependencies=GUARDED)
    database = runtime.database

    def as_object(row: Mapping[str, Any]) -> dict[str, Any]:
        return batch_object(row, runtime.reports.additions(row))

    @routes.post("/v1/batches")
    async def create_batch(  # pyright: ignore[reportUnusedFunction]
        request: Request, who: Who, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None
    ) -> dict[str, Any]:
        """Accept a batch. It is validated right after; errors of its lines appear on the batch.

        Sent again with the same Idempotency-Key, it is answered with the same batch.
        """
        body, trace = await json_body(request), request.headers.get("traceparent", "")
        return await run_in_threadpool(lambda: as_object(_create(runtime, body, who, idempotency_key, trace)))

    @routes.get("/v1/batches")
    def list_batches(  # pyright: ignore[reportUnusedFunction]
        who: Who, limit: int = Query(20, ge=1, le=100), after: str | None = None
    ) -> dict[str, Any]:
        """Batches, newest first."""
        with database.read() as connection:
            rows = batches.page(connection, who.tenant, limit=limit + 1, after=after)
        return list_object(rows, limit, as_object)

    @routes.get("/v1/batches/{batch_id}")
    def retrieve_batch(batch_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One batch."""
        with database.read() as connection:
            row = batches.get(connection, batch_id, who.tenant)
        return as_object(row)

    @routes.post("/v1/batches/{batch_id}/cancel")
    def cancel_batch(batch_id: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Stop a batch; requests in flight may finish, and what is done is kept. With `dry_run` nothing happens."""
        with changing(database, dry_run=dry_run, then=runtime.lifecycle.poke) as connection:
            row = batches.get(connection, batch_id, who.tenant)
            if row["state"] not in {"cancelling", "cancelled"}:
                if row["state"] not in {"validating", "in_progress"}:
                    raise Conflict(f"Cannot cancel a batch with status '{row['state']}'.")
                batches.move(connection, batch_id, "cancelling", runtime.clock.now())
                who.did(connection, batch_id)
                row = batches.get(connection, batch_id, who.tenant)
        return as_object(row)

    return routes


async def json_body(request: Request) -> Any:
    """What a request carries. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(await request.body() or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise InvalidRequest(f"The request body is not valid JSON: {problem}.") from None


def _create(runtime: Runtime, body: Any, who: Caller, key: str | None, trace: str) -> Mapping[str, Any]:
    asked = ""
    if key:
        with runtime.database.read() as connection:
            asked = idempotency.digest(connection, who.tenant, body)
            if known := idempotency.recall(connection, who.tenant, key, asked):
                return batches.get(connection, known, who.tenant)
    new = parse_new_batch(body, runtime.clock.now())
    if runtime.told.on and place_of(trace):
        new = msgspec.structs.replace(new, traceparent=trace.strip())
    return accept(runtime, new, who, key, asked)


def accept(runtime: Runtime, new: NewBatch, who: Caller, key: str | None = None, asked: str = "") -> Mapping[str, Any]:
    """Take a batch whose form is sound; its row. `key`: the request's own for sending it again, with what it `asked`. Raises
    QuotaExceeded, InvalidRequest."""
    now, batch_id, grams = runtime.clock.now(), runtime.ids.new("batch"), runtime.quotas.grams(who.tenant)
    with runtime.database.write() as connection:
        known = idempotency.keep(connection, who.tenant, key, asked, batch_id, now) if key else batch_id
        if known != batch_id:  # it came a second time while the first was on its way
            return batches.get(connection, known, who.tenant)
        runtime.quotas.create(connection, who.tenant, grams)
        problem = None
        try:
            if files.get(connection, new.input_file_id, who.tenant, lock=True)["purpose"] != "batch":
                problem = f"File {new.input_file_id} does not have the purpose 'batch'."
        except NotFound:
            problem = f"Cannot find file {new.input_file_id}."
        refuse_unknown(runtime, new)
        batches.add(
            connection,
            tenant=who.tenant,
            id=batch_id,
            endpoint=new.endpoint,
            input_file_id=new.input_file_id,
            completion_window=new.completion_window,
            state="failed" if problem else "validating",
            created_at=now,
            deadline_at=new.deadline_at,
            failed_at=now if problem else None,
            errors=[{"code": "invalid_request", "message": problem, "param": "file_id", "line": None}] if problem else None,
            meta=new.metadata,
            options=new.stored_options(),
            priority=new.options.priority,
        )
        who.did(connection, batch_id)
        row = batches.get(connection, batch_id, who.tenant)
    if problem:
        runtime.told.ended(batch_id)
    runtime.lifecycle.poke()
    return row


def refuse_unknown(runtime: Runtime, new: NewBatch) -> None:
    """Sites and models that are not there; the lines' own model is looked at with the lines. Raises InvalidRequest."""
    sites, models = list(runtime.fleet.sites), runtime.scheduler.served_models()
    for site in new.options.sites or []:
        if site not in sites:
            raise InvalidRequest(f"There is no site '{site}'; known: {', '.join(sites)}.", param="batchsched.sites")
    zones = sorted({site.zone for site in runtime.fleet.sites.values()})
    for zone in new.options.zones or []:
        if zone not in zones:
            raise InvalidRequest(f"No site lies in the zone '{zone}'; known: {', '.join(zones)}.", param="batchsched.zones")
    allowed, zone_of = new.options.zones or zones, {name: site.zone for name, site in runtime.fleet.sites.items()}
    if not any(zone_of[site] in allowed for site in new.options.sites or sites):
        named = ", ".join(f"{site} ({zone_of[site]})" for site in new.options.sites or sites)
        text = f"No site that you allow lies in a zone that you allow: {named}; {', '.join(allowed)}. Name one of the two only."
        raise InvalidRequest(text, param="batchsched.zones")
    for model in new.options.models or []:
        if model not in models:
            served = ", ".join(models) or "none"
            raise InvalidRequest(f"The model '{shown(model)}' is not served here; served: {served}.", param="batchsched.models")
