"""Instants in an address."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from batchsched.errors import InvalidValue

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def instant(text: str, param: str) -> datetime:
    """RFC 3339 with an offset, in UTC. Raises InvalidValue, naming the parameter."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        plus = re.search(r"\d \d\d:?\d\d$", text)
        hint = "In an address a + stands for a space; write %2B." if plus else None
        raise InvalidValue(f"'{text}' is not an instant such as 2026-05-01T06:00:00Z.", param=param, hint=hint) from None
    if at.tzinfo is None:
        raise InvalidValue(f"'{text}' has no time zone; add Z for UTC or an offset such as +02:00.", param=param)
    return at.astimezone(UTC)
