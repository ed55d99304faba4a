"""How long an engine is left alone that failed."""

from __future__ import annotations

FIRST_S = 2.0
LONGEST_S = 300.0
LONGEST_ASK_S = 15.0
"""To ask whether an engine of others is up again costs nothing."""


def pause_after(failures: int, *, ours: bool) -> float:
    """Seconds until an engine is tried again that failed so often in a row."""
    return min(LONGEST_S if ours else LONGEST_ASK_S, FIRST_S * 2.0 ** min(10, failures - 1))
