"""Windows of pools: routes that make and remove them, pause, skip and extend them. What they decide holds at once, everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from batchsched.errors import Conflict, InvalidValue, NotFound
from batchsched.fleet import WINDOW_NAME, PoolWindow
from batchsched.openings import Standing
from batchsched.queue import windows
from batchsched.queue.windows import Decided
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.batches import json_body
from batchsched.server.coming import Outlook, ending, further, left_out, shown
from batchsched.server.dry_run import changing
from batchsched.server.options import deadline_of, form_of
from batchsched.server.runtime import Runtime
from batchsched.server.window_answers import Extend, NewWindow, Pause, Skip, check_window
from batchsched.units import iso
from batchsched.wire import PREFIX

SHOWN = 10
"""Openings to come of one window, unless others are asked for."""
Count = Annotated[int, Query(ge=1, le=100)]


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=f"{PREFIX}/windows", tags=["batchsched"], dependencies=GUARDED)
    desk = WindowDesk(runtime)

    @routes.get("")
    def list_windows() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The windows, those of the configuration first, each with its next opening."""
        return {"object": "list", "data": desk.every()}

    @routes.post("")
    async def add_window(  # pyright: ignore[reportUnusedFunction]
        request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Make a window. With `dry_run` nothing is kept, as below: the answer says what would be."""
        asked = form_of(NewWindow, await json_body(request))
        return await run_in_threadpool(desk.add, who, asked, dry_run=dry_run)

    @routes.get("/{window}")
    def show_window(window: str, openings: Count = SHOWN) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One window with its next openings."""
        return desk.show(window, openings)

    @routes.delete("/{window}")
    def remove_window(window: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Remove a window that was made here. A pool without any is always open."""
        return desk.remove(who, window, dry_run=dry_run)

    @routes.post("/{window}/pause")
    async def pause_window(  # pyright: ignore[reportUnusedFunction]
        window: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Let it open nothing; what runs is given back, which costs it no attempt."""
        asked = form_of(Pause, await json_body(request))
        return await run_in_threadpool(desk.pause, who, window, asked, dry_run=dry_run)

    @routes.post("/{window}/resume")
    def resume_window(window: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let it open again as it is declared: a pause ends, and what was to be skipped is not."""
        return desk.resume(who, window, dry_run=dry_run)

    @routes.post("/{window}/skip")
    async def skip_window(  # pyright: ignore[reportUnusedFunction]
        window: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Leave out the next opening, or several, or end the one that is open: all of it, where several starts make one."""
        asked = form_of(Skip, await json_body(request))
        return await run_in_threadpool(desk.skip, who, window, asked, dry_run=dry_run)

    @routes.post("/{window}/extend")
    async def extend_window(  # pyright: ignore[reportUnusedFunction]
        window: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Keep it open from now on, for longer than it would be, or although it is closed."""
        asked = form_of(Extend, await json_body(request))
        return await run_in_threadpool(desk.extend, who, window, asked, dry_run=dry_run)

    return routes


class WindowDesk:
    """What the routes do."""

    def __init__(self, runtime: Runtime) -> None:
        self._database, self._clock, self._fleet = runtime.database, runtime.clock, runtime.fleet
        self._scheduler, self._provider = runtime.scheduler, runtime.provider
        self._windows = runtime.scheduler.observer.windows

    def every(self) -> list[dict[str, Any]]:
        """All, each with its next opening."""
        now = self._clock.now()
        with self._database.read() as connection:
            found = self._windows.read(connection)
        outlook = Outlook(self._provider, self._fleet, now)
        return [shown(one, outlook, 1) for one in sorted(found.values(), key=lambda one: not one.configured)]

    def show(self, name: str, count: int) -> dict[str, Any]:
        """Raises NotFound."""
        with self._database.read() as connection:
            found = self._find(connection, name)
        return self._shown(found, self._clock.now(), count)

    def add(self, who: Caller, asked: NewWindow, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound for its pool, InvalidValue, Conflict where there is one of that name."""
        window = PoolWindow(**{field: getattr(asked, field) for field in PoolWindow.__struct_fields__})
        if not re.fullmatch(WINDOW_NAME, asked.name):
            raise InvalidValue("A window's name has at most 64 letters, digits, - and _.", param="name")
        if window.pool not in self._fleet.pools:
            raise NotFound(f"There is no pool '{window.pool[:64]}'. There are: {', '.join(self._fleet.pools)}.", param="pool")
        check_window(window)
        now = self._clock.now()
        with self._deciding(dry_run=dry_run) as connection:
            if asked.name in self._windows.read(connection):
                raise Conflict(
                    f"There is a window '{asked.name}' already.", param="name", hint="Remove it first, or take another name."
                )
            windows.add(connection, asked.name, window, now)
            who.did(connection, asked.name, **msgspec.to_builtins(window))
            found = self._find(connection, asked.name)
        return self._shown(found, now)

    def remove(self, who: Caller, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound, Conflict where the configuration declares it."""
        with self._deciding(dry_run=dry_run) as connection:
            if self._find(connection, name).configured:
                raise Conflict(
                    f"The configuration declares the window '{name}'.", hint="Take it out there; or pause it: `window pause`."
                )
            windows.remove(connection, name)
            who.did(connection, name)
        return {"id": name, "object": "batchsched.window", "deleted": True}

    def pause(self, who: Caller, name: str, asked: Pause, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound, InvalidValue."""
        now = self._clock.now()
        until = deadline_of(asked.until, now, "until") if asked.until else None

        def paused(one: Standing) -> Decided:
            since = one.decided.paused_at if one.paused(now) else now
            return msgspec.structs.replace(one.decided, paused_at=since, paused_until=until)

        return self._decide(who, name, now, paused, dry_run=dry_run, until=iso(until) if until else None)

    def resume(self, who: Caller, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound."""
        now = self._clock.now()

        def resumed(one: Standing) -> Decided:
            behind = frozenset(at for at in one.decided.skipped if at <= now)
            return msgspec.structs.replace(one.decided, paused_at=None, paused_until=None, skipped=behind)

        return self._decide(who, name, now, resumed, dry_run=dry_run)

    def skip(self, who: Caller, name: str, asked: Skip, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound, Conflict where nothing is open that could end, or none is to come."""
        now = self._clock.now()

        def skipped(one: Standing) -> Decided:
            return ending(one, now) if asked.current else left_out(one, now, asked.count)

        return self._decide(who, name, now, skipped, dry_run=dry_run, count=asked.count, current=asked.current)

    def extend(self, who: Caller, name: str, asked: Extend, *, dry_run: bool) -> dict[str, Any]:
        """Raises NotFound, InvalidValue, Conflict where it is paused, or never closes."""
        now = self._clock.now()
        if (asked.until is None) == (asked.by is None):
            raise InvalidValue("Say either 'until' when it stays open, or 'by' how much longer.", param="until")

        def extended(one: Standing) -> Decided:
            return further(one, now, asked)

        return self._decide(who, name, now, extended, dry_run=dry_run, until=asked.until, by=asked.by)

    def _decide(
        self, who: Caller, name: str, now: datetime, how: Callable[[Standing], Decided], *, dry_run: bool, **detail: Any
    ) -> dict[str, Any]:
        with self._deciding(dry_run=dry_run) as connection:
            windows.decide(connection, name, how(self._find(connection, name)), now)
            who.did(connection, name, **detail)
            found = self._find(connection, name)
        return self._shown(found, now)

    @contextmanager
    def _deciding(self, *, dry_run: bool) -> Generator[Connection]:
        """A transaction in which nobody else decides; at its end all go by what was decided."""
        with changing(self._database, dry_run=dry_run, then=self._scheduler.poke) as connection:
            windows.lock(connection)
            yield connection

    def _find(self, connection: Connection, name: str) -> Standing:
        found = self._windows.read(connection)
        if name not in found:
            there = f"There are: {', '.join(sorted(found))}." if found else "There is none."
            raise NotFound(f"There is no window '{name[:64]}'. {there}", param="window")
        return found[name]

    def _shown(self, one: Standing, now: datetime, count: int = SHOWN) -> dict[str, Any]:
        return shown(one, Outlook(self._provider, self._fleet, now), count)
