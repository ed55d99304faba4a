"""Whose rows a query sees: what the API asks names its caller's tenant; infrastructure says ANY, so that nobody leaves it out."""

from __future__ import annotations

from enum import Enum
from typing import Final

from sqlalchemy import ColumnElement, Table, true


class Everybody(Enum):
    """No tenant in particular."""

    ANY = "any"


ANY: Final = Everybody.ANY
"""For housekeeping, the scheduler and the workers' routes, which serve every tenant."""

DEFAULT: Final = "default"
"""The tenant of whoever calls without a key of their own."""

Tenant = str | Everybody


def owned(table: Table, tenant: Tenant) -> ColumnElement[bool]:
    """The condition that a row of `table` belongs to the tenant."""
    return true() if isinstance(tenant, Everybody) else table.c.tenant == tenant
