"""Recurring jobs: routes that make and remove them, pause them, and tell what came of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from batchsched.errors import Conflict, InvalidValue, NotFound
from batchsched.fleet import WINDOW_NAME, Window
from batchsched.queue import batches, schedules
from batchsched.queue.leadership import has_inputs
from batchsched.queue.rows import Row
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.batches import json_body, refuse_unknown
from batchsched.server.dry_run import changing
from batchsched.server.inputs import check_pattern
from batchsched.server.options import form_of, parse_new_batch
from batchsched.server.releasing import body_of, over_with_key
from batchsched.server.runtime import Runtime
from batchsched.server.schedule_answers import NewSchedule
from batchsched.server.window_answers import check_window
from batchsched.units import iso, parse_duration_s
from batchsched.windows import next_start
from batchsched.wire import PREFIX

Limit = Annotated[int, Query(ge=1, le=100)]
NO_INPUTS = (
    "Nothing comes of it: the server that leads has no folder of inputs. Name the same one, server.inputs_dir, in the "
    "configuration of every server that may lead."
)


def router(runtime: Runtime, changed: Callable[[], None]) -> APIRouter:
    """The routes, bound to a server. `changed` is called after a change: times that they are due are others."""
    routes = APIRouter(prefix=f"{PREFIX}/schedules", tags=["batchsched"], dependencies=GUARDED)
    desk = ScheduleDesk(runtime, changed)

    @routes.get("")
    def list_schedules(who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The recurring jobs, by name."""
        return {"object": "list", "data": desk.every(who)}

    @routes.post("")
    async def add_schedule(  # pyright: ignore[reportUnusedFunction]
        request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Let a job recur: at each time its files become batches. With `dry_run` nothing is kept, as below: the answer says what
        would be."""
        asked = form_of(NewSchedule, await json_body(request))
        return await run_in_threadpool(desk.add, who, asked, dry_run=dry_run)

    @routes.get("/{schedule}")
    def show_schedule(schedule: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One of them."""
        return desk.show(who, schedule)

    @routes.delete("/{schedule}")
    def remove_schedule(schedule: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Forget it, with its history; its batches stay."""
        return desk.remove(who, schedule, dry_run=dry_run)

    @routes.post("/{schedule}/pause")
    def pause_schedule(schedule: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let it make no batches until it is resumed."""
        return desk.pause(who, schedule, dry_run=dry_run)

    @routes.post("/{schedule}/resume")
    def resume_schedule(schedule: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let it go on, by the caller's key from then on; the times of the pause are not made up for."""
        return desk.resume(who, schedule, dry_run=dry_run)

    @routes.get("/{schedule}/history")
    def schedule_history(schedule: str, who: Who, limit: Limit = 20) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """What came of it, the newest first."""
        return {"object": "list", "data": desk.history(who, schedule, limit)}

    return routes


class ScheduleDesk:
    """What the routes do."""

    def __init__(self, runtime: Runtime, changed: Callable[[], None]) -> None:
        self._runtime, self._changed = runtime, changed
        self._database, self._clock = runtime.database, runtime.clock

    def every(self, who: Caller) -> list[dict[str, Any]]:
        """A tenant's."""
        with self._database.read() as connection:
            return [self._shown(connection, row, self._clock.now()) for row in schedules.every(connection, who.tenant)]

    def show(self, who: Caller, name: str) -> dict[str, Any]:
        """Raises NotFound."""
        with self._database.read() as connection:
            return self._shown(connection, schedules.get(connection, who.tenant, name), self._clock.now())

    def add(self, who: Caller, asked: NewSchedule, *, dry_run: bool) -> dict[str, Any]:
        """Raises InvalidValue, InvalidRequest for sites and models that are not there, Conflict where there is one of that name,
        or no folder of inputs."""
        if not self._runtime.settings.server.inputs_dir:
            raise Conflict(
                "This server has no folder of inputs that recurring jobs could find their files in.",
                hint="Name one in its configuration: server.inputs_dir.",
            )
        if not who.tenant.strip("."):
            raise Conflict(f"The tenant '{who.tenant}' can have no folder of inputs: its name is dots alone.")
        _check(asked)
        now, options = self._clock.now(), msgspec.to_builtins(asked.batchsched)
        refuse_unknown(self._runtime, parse_new_batch(body_of(asked.endpoint, options, "file", {}), now))
        with changing(self._database, dry_run=dry_run, then=self._changed) as connection:
            schedules.add(
                connection,
                tenant=who.tenant,
                name=asked.name,
                cron=asked.cron,
                timezone=asked.timezone,
                file=asked.file,
                endpoint=asked.endpoint,
                options=options,
                missed=asked.missed,
                overlap=asked.overlap,
                created_at=now,
                looked_at=now,
                made_by=who.actor,
            )
            who.did(connection, asked.name, cron=asked.cron, file=asked.file)
            return self._shown(connection, schedules.get(connection, who.tenant, asked.name), now)

    def remove(self, who: Caller, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound."""
        with changing(self._database, dry_run=dry_run, then=self._changed) as connection:
            schedules.get(connection, who.tenant, name, lock=True)
            schedules.remove(connection, who.tenant, name)
            who.did(connection, name)
        return {"id": name, "object": "batchsched.schedule", "deleted": True}

    def pause(self, who: Caller, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound."""
        now = self._clock.now()
        with changing(self._database, dry_run=dry_run, then=self._changed) as connection:
            if (one := schedules.get(connection, who.tenant, name, lock=True))["paused_at"] is None:
                schedules.waits(connection, one, due_at=now, at=now, files={})  # nothing is looked for any more
                schedules.change(connection, who.tenant, name, paused_at=now)
            who.did(connection, name)
            return self._shown(connection, schedules.get(connection, who.tenant, name), now)

    def resume(self, who: Caller, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound."""
        now = self._clock.now()
        with changing(self._database, dry_run=dry_run, then=self._changed) as connection:
            if schedules.get(connection, who.tenant, name, lock=True)["paused_at"] is not None:
                schedules.change(connection, who.tenant, name, paused_at=None, looked_at=now)
            schedules.change(connection, who.tenant, name, made_by=who.actor)
            who.did(connection, name)
            return self._shown(connection, schedules.get(connection, who.tenant, name), now)

    def _shown(self, connection: Connection, row: Row, now: datetime) -> dict[str, Any]:
        trouble = NO_INPUTS if has_inputs(connection) is False else over_with_key(connection, row, now)
        return {**schedule_object(row, now), "trouble": trouble}

    def history(self, who: Caller, name: str, limit: int) -> list[dict[str, Any]]:
        """Raises NotFound."""
        made: dict[str, Row] = {}
        with self._database.read() as connection:
            schedules.get(connection, who.tenant, name)
            found = schedules.history(connection, who.tenant, name, limit)
            for batch_id in (row["batch_id"] for row in found if row["batch_id"]):
                with suppress(NotFound):  # of a batch that is kept no longer
                    made[batch_id] = batches.get(connection, batch_id, who.tenant)
        return [self._release(row, made.get(row["batch_id"])) for row in found]

    def _release(self, row: Row, batch: Row | None) -> dict[str, Any]:
        carbon = self._runtime.reports.additions(batch)["carbon"] if batch else None
        return {
            "object": "batchsched.release",
            "due_at": iso(row["due_at"]),
            "at": iso(row["at"]),
            "state": row["state"],
            "file": row["file"] or None,
            "batch_id": row["batch_id"],
            "batch_status": batch["state"] if batch else None,
            "requests_completed": batch["completed"] if batch else None,
            "requests_failed": batch["failed"] if batch else None,
            "grams": carbon["grams"] if carbon else None,
            "note": row["note"] or None,
        }


def schedule_object(row: Row, now: datetime) -> dict[str, Any]:
    """A recurring job as it is answered, but for trouble with it."""
    next_at = None if row["paused_at"] else next_start(Window(row["cron"], "1s", row["timezone"]), now)
    return {
        "object": "batchsched.schedule",
        "id": row["name"],
        "cron": row["cron"],
        "timezone": row["timezone"],
        "file": row["file"],
        "endpoint": row["endpoint"],
        "batchsched": row["options"],
        "missed": row["missed"],
        "overlap": row["overlap"],
        "created_at": iso(row["created_at"]),
        "made_by": row["made_by"],
        "paused_at": iso(row["paused_at"]) if row["paused_at"] else None,
        "next_at": iso(next_at) if next_at else None,
        "next_local": next_at.astimezone(ZoneInfo(row["timezone"])).isoformat() if next_at else None,
    }


def _check(asked: NewSchedule) -> None:
    """Raises InvalidValue."""
    if not re.fullmatch(WINDOW_NAME, asked.name):
        raise InvalidValue("A schedule's name has at most 64 letters, digits, - and _.", param="name")
    check_window(Window(asked.cron, "1s", asked.timezone))
    check_pattern(asked.file)
    try:
        parse_duration_s(asked.batchsched.deadline or "")
    except InvalidValue:
        raise InvalidValue("A recurring job's deadline is a duration, such as 10h.", param="batchsched.deadline") from None
