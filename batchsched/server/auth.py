"""Who may call: one static key, compared in constant time. Without a configured key everybody on this machine may."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from fastapi import Depends
from starlette.requests import Request

from batchsched.errors import InsecureBind, PermissionDenied, Unauthorized
from batchsched.queue.tenancy import DEFAULT

OPEN_PATHS = frozenset({"/livez", "/readyz", "/version"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
"""What the Host header may say on a loopback server: a name that was made to point here (DNS rebinding) is refused."""


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, and for which tenant."""

    actor: str
    """The id of a key, `static` for the configured one, `local` where none is asked for."""
    tenant: str


def _caller(request: Request) -> Caller:
    known: Caller = request.state.caller
    return known


Who = Annotated[Caller, Depends(_caller)]
"""For the signature of a route: whoever passed the key check."""


class KeyCheck:
    """A dependency of every route: default deny, except for what only says that the server lives."""

    def __init__(self, api_key: str) -> None:
        self._digest = _digest(api_key) if api_key else None

    def __call__(self, request: Request) -> None:
        """Raises Unauthorized, PermissionDenied."""
        _refuse_foreign_pages(request)
        request.state.caller = Caller("static" if self._digest else "local", DEFAULT)
        if self._digest is None or request.scope["path"] in OPEN_PATHS:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), self._digest):
            raise Unauthorized("Incorrect API key provided.", hint="Send the header 'Authorization: Bearer <key>'.")


def _refuse_foreign_pages(request: Request) -> None:
    """A browser names the page that a request comes from; pages of other origins have no business here."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise PermissionDenied(f"Requests from pages of {origin} are not accepted.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def is_loopback(host: str) -> bool:
    """Is this an address that only this machine reaches?"""
    return host in _LOOPBACK or host.startswith("127.")


def check_bind(host: str, api_key: str) -> None:
    """Refuse to listen to the world without a key. Raises InsecureBind."""
    if not is_loopback(host) and not api_key:
        raise InsecureBind(
            f"Refusing to listen on {host} without an API key.",
            hint="Set server.api_key (or BATCHSCHED_SERVER_API_KEY), or listen on 127.0.0.1.",
        )
