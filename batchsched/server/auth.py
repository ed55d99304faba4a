"""Who may call. Every request passes the key check: default deny, by the table in rules.py.

Keys are asked for as soon as one is configured or one was ever created; until then whoever reaches the loopback address is the
local operator. A key is `bs_<id>_<secret>`: found by its id, compared by its SHA-256 in constant time, and looked up at every
request, so that a revocation holds at once on every server.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from fastapi import Depends
from sqlalchemy import Connection
from starlette.requests import Request

from batchsched.clock import Clock
from batchsched.errors import BatchschedError, InsecureBind, InvalidConfiguration, PermissionDenied, Unauthorized
from batchsched.queue import audit, keys
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import DEFAULT
from batchsched.server.bind import is_exposed
from batchsched.server.rules import RULES, SCOPES
from batchsched.settings import Server

LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
"""What the Host header may say on a loopback server: a name that was made to point here (DNS rebinding) is refused."""
KEY_PREFIX = "bs"


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, for which tenant, and what for."""

    actor: str
    """The id of a key, `static` for the configured one, `local` where none is asked for."""
    tenant: str
    scopes: frozenset[str]
    at: datetime
    address: str | None = None
    action: str | None = None
    """What the audit log calls the route."""

    def did(self, connection: Connection, object_id: str, **detail: Any) -> None:
        """Enter what the caller does into the audit log, in the transaction in which it is done."""
        audit.add(
            connection,
            at=self.at,
            actor=self.actor,
            tenant=self.tenant,
            action=self.action,
            object_id=object_id,
            detail={"address": self.address, **detail},
        )


def _caller(request: Request) -> Caller:
    known: Caller = request.state.caller
    return known


Who = Annotated[Caller, Depends(_caller)]
"""For the signature of a route: whoever passed the key check."""


class KeyCheck:
    """Of an application: is the caller one who may?"""

    def __init__(self, database: Database, server: Server, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._static = digest_of(server.api_key) if server.api_key else None
        self._asks = self._static is not None or is_exposed(server)

    def __call__(self, request: Request) -> None:
        """Raises Unauthorized, PermissionDenied."""
        _refuse_foreign_pages(request)
        rule = RULES.get(f"{request.method} {request.scope['route'].path}")
        if rule is None:
            raise PermissionDenied("No rule says who may call this route, so that nobody may.")
        if rule.scope is None:
            return
        caller = self._identify(request)
        if rule.scope not in caller.scopes:
            raise PermissionDenied(
                f"This key may not do that: it lacks the scope '{rule.scope}'.", hint="Ask an operator for a key that has it."
            )
        address = request.client.host if request.client else None
        request.state.caller = msgspec.structs.replace(caller, address=address, action=rule.action)

    def _identify(self, request: Request) -> Caller:
        now = self._clock.now()
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        if self._static and hmac.compare_digest(digest_of(key), self._static):
            return Caller("static", DEFAULT, frozenset(SCOPES), now)
        with self._database.read() as connection:
            row = keys.find(connection, key_id) if (key_id := id_of(key)) else None
            self._asks = self._asks or row is not None or keys.exist(connection)
        if not self._asks:
            return Caller("local", DEFAULT, frozenset(SCOPES), now)
        if row is None or not hmac.compare_digest(digest_of(key), row["digest"]):
            what = "Incorrect API key provided." if key else "No API key provided."
            hint = "Send 'Authorization: Bearer <key>'; batchsched's commands and SDK read BATCHSCHED_SERVER_API_KEY."
            raise Unauthorized(what, hint=hint)
        return self._admitted(row, now)

    def _admitted(self, row: Row, now: datetime) -> Caller:
        if keys.over(row, now):
            raise Unauthorized(
                f"The API key {row['id']} was revoked." if row["revoked_at"] else f"The API key {row['id']} expired."
            )
        if row["last_used_at"] is None or row["last_used_at"] <= now - keys.USE_NOTED_EVERY:
            # A disk that is full must not keep anybody from reading.
            with contextlib.suppress(BatchschedError), self._database.statement() as connection:
                keys.used(connection, row["id"], now)
        return Caller(row["id"], row["tenant"], frozenset(row["scopes"]), now)


def _checked(request: Request) -> None:
    check: KeyCheck = request.app.state.key_check
    check(request)


GUARDED = [Depends(_checked)]
"""The dependencies of every route. Each router is made with them: given to the application, or where a router is included in it,
FastAPI works out anew, for each application, what every route takes."""


def digest_of(key: str) -> str:
    """What is kept of a key: it is long and random, so that a plain hash says nothing about it."""
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(key: str) -> str | None:
    """The id that a key names; None where it is no key of ours."""
    parts = key.split("_")
    return f"key_{parts[1]}" if len(parts) == 3 and parts[0] == KEY_PREFIX else None


def _refuse_foreign_pages(request: Request) -> None:
    """A browser names the page that a request comes from; pages of other origins have no business here."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise PermissionDenied(f"Requests from pages of {origin} are not accepted.")


def check_keys(server: Server, database: Database, now: datetime) -> None:
    """Refuse to serve other machines where nobody needs a key, and to take a tenant's key for the operator's, which the same
    variable of the environment may hold. Raises InsecureBind, InvalidConfiguration."""
    with database.read() as connection:
        made = keys.find(connection, id_of(server.api_key) or "")
    if made:
        raise InvalidConfiguration(
            f"key 'server.api_key' holds {made['id']}, a key of tenant '{made['tenant']}'; as the server's it could do anything.",
            hint="Start the server without it (`env -u BATCHSCHED_SERVER_API_KEY batchsched serve`), or with another secret.",
        )
    if not is_exposed(server) or server.api_key:
        return
    with database.write() as connection:
        if not keys.usable(connection, now):
            raise InsecureBind(
                f"Refusing to serve other machines on {server.host} without an API key.",
                hint="Set server.api_key (or BATCHSCHED_SERVER_API_KEY); or start the server on 127.0.0.1, make a key there with"
                " `batchsched key create --scope operate`, and start it again.",
            )
