"""Who may call: one static key, compared in constant time. Without a configured key everybody on this machine may."""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request

from batchsched.errors import InsecureBind, Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz", "/version"})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class KeyCheck:
    """A dependency of every route: default deny, except for what only says that the server lives."""

    def __init__(self, api_key: str) -> None:
        self._digest = _digest(api_key) if api_key else None

    def __call__(self, request: Request) -> None:
        """Raises Unauthorized."""
        if self._digest is None or request.scope["path"] in OPEN_PATHS:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.strip()), self._digest):
            raise Unauthorized("Incorrect API key provided.", hint="Send the header 'Authorization: Bearer <key>'.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def check_bind(host: str, api_key: str) -> None:
    """Refuse to listen to the world without a key. Raises InsecureBind."""
    if host not in _LOOPBACK and not host.startswith("127.") and not api_key:
        raise InsecureBind(
            f"Refusing to listen on {host} without an API key.",
            hint="Set server.api_key (or BATCHSCHED_SERVER_API_KEY), or listen on 127.0.0.1.",
        )
