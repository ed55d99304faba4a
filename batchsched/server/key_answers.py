"""What the routes about keys and the audit log give, as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batchsched.server.rules import Scope

Id = str
Unix = Annotated[int, Meta(description="Unix seconds")]


class _Exact(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An object of which every field is named."""


class Key(_Exact):
    """An API key, without what makes it one."""

    object: Literal["batchsched.key"]
    id: Id
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: Unix
    expires_at: Unix | None
    last_used_at: Unix | None
    revoked_at: Unix | None


class CreatedKey(Key):
    """A new key; `key` is shown here and never again."""

    key: str


class AuditEntry(_Exact):
    """Who did what, and when."""

    object: Literal["batchsched.audit"]
    id: int
    actor: str
    tenant: str
    action: str
    object_id: Id
    detail: dict[str, Any]
    at: Unix
