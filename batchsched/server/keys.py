"""Routes for API keys and for the audit log: what operators give out, and what they can read afterwards."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from msgspec import Meta
from starlette.concurrency import run_in_threadpool

from batchsched.errors import Conflict
from batchsched.queue import audit, keys
from batchsched.queue.tenancy import ANY
from batchsched.server.auth import GUARDED, KEY_PREFIX, Caller, Who, digest_of
from batchsched.server.batches import json_body
from batchsched.server.dry_run import changing
from batchsched.server.instants import instant
from batchsched.server.objects import list_object
from batchsched.server.options import deadline_of, form_of
from batchsched.server.rules import Scope
from batchsched.server.runtime import Runtime
from batchsched.units import to_unix
from batchsched.wire import PREFIX

_ALPHABET = string.digits + string.ascii_letters
_SECRET_LENGTH = 43
"""Digits of base 62 that hold 32 random bytes."""


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator says about a key."""

    scopes: Annotated[list[Scope], Meta(min_length=1)]
    name: Annotated[str, Meta(max_length=64)] = ""
    tenant: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """The caller's own where it is left out."""
    expires: str | None = None
    """A duration such as 90d, or an instant; never where it is left out."""


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["Keys"], dependencies=GUARDED)
    database, clock = runtime.database, runtime.clock

    @routes.post("/keys")
    async def create_key(request: Request, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Make a key. The answer holds it in `key`, this once: only its hash is kept."""
        new = form_of(NewKey, await json_body(request))
        return await run_in_threadpool(_create, runtime, new, who)

    @routes.get("/keys")
    def list_keys(limit: int = Query(100, ge=1, le=100), after: str | None = None) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Keys of every tenant, oldest first, those that are over among them."""
        with database.read() as connection:
            rows = keys.page(connection, limit=limit + 1, after=after)
        return list_object(rows, limit, key_object)

    @routes.post("/keys/{key_id}/revoke")
    def revoke_key(key_id: str, who: Who, dry_run: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """End a key at once. Revoking it again does no harm. With `dry_run` it stays: the answer says what would be."""
        with changing(database, dry_run=dry_run) as connection:
            row = keys.get(connection, key_id)
            if not row["revoked_at"]:
                alive = keys.usable(connection, clock.now())
                others = [other for other in alive if other["id"] != key_id and "operate" in other["scopes"]]
                if "operate" in row["scopes"] and not others and not runtime.settings.server.api_key:
                    raise Conflict("This is the last key that may operate the server.", hint="Create another one first.")
                keys.revoke(connection, key_id, clock.now())
                who.did(connection, key_id, tenant=row["tenant"])
            return key_object(keys.get(connection, key_id))

    @routes.get("/audit")
    def read_audit(  # pyright: ignore[reportUnusedFunction]
        limit: int = Query(100, ge=1, le=1000),
        after: int = Query(0, ge=0),
        tenant: str | None = None,
        action: Annotated[list[str] | None, Query()] = None,
        actor: str | None = None,
        object_id: str | None = None,
        since: Annotated[str | None, Query(alias="from")] = None,
        until: Annotated[str | None, Query(alias="to")] = None,
        newest: bool = False,
    ) -> dict[str, Any]:
        """Who did what, in the order in which it was done, from the entry after `after`; with `newest` the other way round, from
        the entry before it. `action`: an act such as `pool.drain`, or all about a noun, `pool`; several are taken together."""
        start, end = instant(since, "from") if since else None, instant(until, "to") if until else None
        which = audit.Which(action or (), actor, object_id, start, end)
        with database.read() as connection:
            rows = audit.page(connection, tenant or ANY, limit=limit + 1, after=after, which=which, newest=newest)
        return list_object(rows, limit, audit_object)

    return routes


def _create(runtime: Runtime, new: NewKey, who: Caller) -> dict[str, Any]:
    now = runtime.clock.now()
    expires_at = deadline_of(new.expires, now, "expires") if new.expires else None
    key_id = runtime.ids.new("key")
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    key = f"{KEY_PREFIX}_{key_id.removeprefix('key_')}_{secret}"
    scopes, tenant = sorted(set(new.scopes)), new.tenant or who.tenant
    with runtime.database.write() as connection:
        if "operate" not in scopes and not runtime.settings.server.api_key and not keys.exist(connection):
            raise Conflict(
                "The first key must have the scope 'operate': from then on everybody needs a key, and nobody could make another.",
                hint="Create one with the scope 'operate' first, and keep it.",
            )
        keys.add(
            connection,
            id=key_id,
            tenant=tenant,
            name=new.name,
            digest=digest_of(key),
            scopes=scopes,
            created_at=now,
            expires_at=expires_at,
        )
        who.did(connection, key_id, tenant=tenant, scopes=scopes)
        return {**key_object(keys.get(connection, key_id)), "key": key}


def key_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """A key, without what makes it one."""
    stamps = {name: to_unix(row[name]) if row[name] else None for name in ("expires_at", "last_used_at", "revoked_at")}
    known = {name: row[name] for name in ("id", "name", "tenant", "scopes")}
    return {"object": "batchsched.key", **known, "created_at": to_unix(row["created_at"]), **stamps}


def audit_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the audit log."""
    known = {name: row[name] for name in ("id", "actor", "tenant", "action", "object_id", "detail")}
    return {"object": "batchsched.audit", **known, "at": to_unix(row["at"])}
