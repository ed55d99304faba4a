"""What operators decide over the plan's head: routes that close and open pools, and freeze shifting."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from batchsched.errors import InvalidValue, NotFound
from batchsched.queue import launchers, overrides, workers
from batchsched.queue.rows import Row
from batchsched.queue.spare import hour_of_week
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.batches import json_body
from batchsched.server.dry_run import changing
from batchsched.server.options import deadline_of, form_of
from batchsched.server.plan_answers import Close, Freeze
from batchsched.server.runtime import Runtime
from batchsched.spare import Share
from batchsched.unable import failing
from batchsched.units import iso
from batchsched.wire import PREFIX


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"], dependencies=GUARDED)
    rule = Override(runtime)

    @routes.post("/plan/freeze")
    async def freeze_plan(  # pyright: ignore[reportUnusedFunction]
        request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Shift nothing more: work starts at once where there is room, the earliest deadline first. With `dry_run`, here and
        below, nothing is kept: the answer says what would be."""
        asked = form_of(Freeze, await json_body(request))
        return await run_in_threadpool(rule.freeze, who, asked, dry_run=dry_run)

    @routes.post("/plan/unfreeze")
    def unfreeze_plan(who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Shift again. No harm where it was not frozen."""
        return rule.unfreeze(who, dry_run=dry_run)

    @routes.get("/pools")
    def list_pools() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The pools, and how each stands."""
        return {"object": "list", "data": rule.pools()}

    @routes.post("/pools/{pool}/cordon")
    async def cordon_pool(  # pyright: ignore[reportUnusedFunction]
        pool: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Lease nothing new to a pool and plan nothing there; what runs goes on."""
        asked = form_of(Close, await json_body(request))
        return await run_in_threadpool(rule.close, who, pool, "cordoned", asked, dry_run=dry_run)

    @routes.post("/pools/{pool}/drain")
    async def drain_pool(  # pyright: ignore[reportUnusedFunction]
        pool: str, request: Request, who: Who, dry_run: bool = False
    ) -> dict[str, Any]:
        """Cordon a pool, and have what runs given back unfinished, which costs it no attempt."""
        asked = form_of(Close, await json_body(request))
        return await run_in_threadpool(rule.close, who, pool, "drained", asked, dry_run=dry_run)

    @routes.post("/pools/{pool}/open")
    def open_pool(pool: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let a pool work again, also on GPUs with memory errors. No harm where it may."""
        return rule.open(who, pool, dry_run=dry_run)

    return routes


class Override:
    """What the routes do. What is decided holds at once on every server, and over restarts."""

    def __init__(self, runtime: Runtime) -> None:
        self._database = runtime.database
        self._scheduler = runtime.scheduler
        self._clock = runtime.clock
        self._fleet = runtime.fleet
        self._lease_s = runtime.settings.server.lease_s

    def freeze(self, who: Caller, asked: Freeze, *, dry_run: bool = False) -> dict[str, Any]:
        """Raises InvalidValue for an end that cannot be."""
        now = self._clock.now()
        until = deadline_of(asked.until, now, "until") if asked.until else None
        with changing(self._database, dry_run=dry_run, then=self._scheduler.poke) as connection:
            overrides.freeze(connection, now, until)
            who.did(connection, "plan", until=iso(until) if until else None)
        return {"id": "plan", "frozen": frozen_object(overrides.Override("frozen", now, until))}

    def unfreeze(self, who: Caller, *, dry_run: bool = False) -> dict[str, Any]:
        """Shift again."""
        with changing(self._database, dry_run=dry_run, then=self._scheduler.poke) as connection:
            overrides.unfreeze(connection)
            who.did(connection, "plan")
        return {"id": "plan", "frozen": None}

    def close(self, who: Caller, pool: str, how: overrides.Closed, asked: Close, *, dry_run: bool = False) -> dict[str, Any]:
        """Raises NotFound, InvalidValue."""
        self._known(pool)
        now = self._clock.now()
        since = deadline_of(asked.since, now, "since") if asked.since else now
        until = deadline_of(asked.until, now, "until") if asked.until else None
        if until and until <= since:
            raise InvalidValue(f"It would end before it begins: {asked.until} is not after {asked.since}.", param="until")
        with changing(self._database, dry_run=dry_run, then=self._scheduler.poke) as connection:
            overrides.close(connection, pool, how, since, until)
            who.did(connection, pool, since=iso(since), until=iso(until) if until else None)
            return self._one(connection, pool)

    def open(self, who: Caller, pool: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Raises NotFound."""
        self._known(pool)
        with changing(self._database, dry_run=dry_run, then=self._scheduler.poke) as connection:
            overrides.reopen(connection, pool)
            passed = workers.pardon(connection, pool)
            who.did(connection, pool)
            found = self._one(connection, pool)
        return {**found, "pardoned": passed}

    def pools(self) -> list[dict[str, Any]]:
        """All, in the order in which they are declared."""
        with self._database.read() as connection:
            return self._all(connection)

    def _all(self, connection: Connection) -> list[dict[str, Any]]:
        now = self._clock.now()
        ruled = overrides.active(connection, now)
        there = workers.active(connection, now - timedelta(seconds=self._lease_s))
        alive, stuck = [row["pool"] for row in there], failing(there)
        ills = workers.ills(connection, now - timedelta(seconds=self._lease_s))
        able = launchers.active(connection, now - launchers.SILENT)
        opened = self._scheduler.doors.openings(connection)
        shares = self._scheduler.observer.current_shares(now)
        return [
            {
                **self._pool(name, ruled, alive, opened.share(name, now)),
                **_launched(name, able),
                "spare": spare_object(shares.get(name), now),
                "ills": ills.get(name, []),
                "failing": stuck.get(name, []),
            }
            for name in self._fleet.pools
        ]

    def _one(self, connection: Connection, pool: str) -> dict[str, Any]:
        return next(one for one in self._all(connection) if one["id"] == pool)

    def _pool(self, name: str, ruled: overrides.Overrides, alive: list[str], share: float) -> dict[str, Any]:
        pool, site, closed = self._fleet.pools[name], self._fleet.site_of(name), ruled.pools.get(name)
        return {
            "object": "batchsched.pool",
            "id": name,
            "site": pool.site,
            "zone": site.zone,
            "simulated": site.simulated,
            "kind": pool.kind,
            "gpu": pool.gpu,
            "replicas": pool.count,
            "workers": alive.count(name),
            "ceiling": pool.ceiling,
            "slo": msgspec.to_builtins(pool.slo),
            "state": closed.how if closed else "open" if share > 0 else "closed",
            "share": 0.0 if closed else share,
            "since": iso(closed.since) if closed else None,
            "until": iso(closed.until) if closed and closed.until else None,
            "ahead": _closing(ruled.ahead.get(name)),
        }

    def _known(self, pool: str) -> None:
        if pool not in self._fleet.pools:
            raise NotFound(f"There is no pool '{pool[:64]}'. There are: {', '.join(self._fleet.pools)}.", param="pool")


def _launched(pool: str, able: Sequence[Row]) -> dict[str, Any]:
    """What launchers can start of a pool, and what keeps them from more."""
    mine = [one for one in able if one["pool"] == pool]
    troubles = [f"{one['name']}: {one['trouble']}" for one in mine if one["trouble"]]
    return {"startable": sum(one["replicas"] for one in mine), "troubles": troubles}


def spare_object(share: Share | None, now: datetime) -> dict[str, Any] | None:
    """What online users leave of one server now."""
    if share is None:
        return None
    known, hour = share.spare, hour_of_week(now)
    expected = share.expected(now)
    off = expected - known.tokens_per_s[hour]
    return {
        "tokens_per_s": expected,
        "p10": max(0.0, known.quantile(hour, 0.1) + off),
        "p90": known.quantile(hour, 0.9) + off,
        "quarters_seen": known.samples,
    }


def _closing(one: overrides.Override | None) -> dict[str, Any] | None:
    return {"how": one.how, "since": iso(one.since), "until": iso(one.until) if one.until else None} if one else None


def frozen_object(one: overrides.Override | None) -> dict[str, Any] | None:
    """Since when nothing is shifted, and until when."""
    return {"since": iso(one.since), "until": iso(one.until) if one.until else None} if one else None
