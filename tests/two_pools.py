"""A fleet of an old and a new pool, and what a worker of one says of its work: for tests of pools that slow or fall ill."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from batchsched.units import iso


def two_pools(chunk_lines: int, *, zone: str = "DE", more: str = "") -> str:
    """Its configuration; a batch may run on either pool."""
    return f"""
[sites.home]
zone = "{zone}"
[models.tiny]
[pools.old]
power_w = 100.0
[pools.new]
power_w = 120.0
[server]
chunk_lines = {chunk_lines}
{more}
"""


def answers(token: int, lines: Iterable[int], ended_at: datetime, busy_s: float, *, written: int = 50) -> dict[str, Any]:
    """The body that tells of lines of a leased chunk, each of which got so many tokens, done in so many seconds until then."""
    tokens = {"input_tokens": 10, "cached_tokens": 0, "output_tokens": written}
    results = [{"line": line, "ok": True, **tokens, "output": {"custom_id": f"r{line - 1}"}} for line in lines]
    span = {"started_at": iso(ended_at - timedelta(seconds=busy_s)), "ended_at": iso(ended_at), "busy_s": busy_s}
    return {"token": token, "results": results, "meter": {**span, "energy_j": 100 * busy_s, "energy_source": "modelled"}}
