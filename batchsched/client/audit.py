"""The audit log: typed entries, and the call that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batchsched.client.calls import Call, typed
from batchsched.paths import PREFIX
from batchsched.units import iso


class Entry(msgspec.Struct, frozen=True):
    """Who did what, to what, and when. `actor`: a key's id, `static` for the configured key, `local` where none is asked for,
    else the part of the server that acted by itself; `detail`: the caller's address and what else was said."""

    id: int
    actor: str
    tenant: str
    action: str
    at: int
    object_id: str = ""
    detail: dict[str, Any] = {}

    @property
    def when(self) -> datetime:
        """When it was done, to the second."""
        return datetime.fromtimestamp(self.at, UTC)


class Entries(msgspec.Struct, frozen=True):
    """A page of them."""

    data: tuple[Entry, ...]
    has_more: bool = False


def entries(
    *,
    limit: int,
    after: int = 0,
    newest: bool = False,
    actions: Sequence[str] = (),
    actor: str | None = None,
    object_id: str | None = None,
    tenant: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Call[Entries]:
    """Up to `limit` (1000 at most) of those in [since, until), in the order in which they were made, from the one after `after`;
    with `newest` the other way round, from the one before it."""
    asked: dict[str, str | Iterable[str] | None] = {
        "limit": str(limit),
        "after": str(after) if after else None,
        "newest": "true" if newest else None,
        "action": list(actions),
        "actor": actor,
        "object_id": object_id,
        "tenant": tenant,
        "from": iso(since) if since else None,
        "to": iso(until) if until else None,
    }
    return Call("GET", f"{PREFIX}/audit", typed(Entries), {"params": {key: value for key, value in asked.items() if value}})
