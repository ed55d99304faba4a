"""The states of a batch and of a chunk, and every step between them: the one table that code, schema and docs follow.

The schema's CHECK constraints are made from it, docs/states.md draws it, and a test holds the three together.
"""

from __future__ import annotations

from typing import Final

BATCH_TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "validating": frozenset({"in_progress", "failed", "cancelling"}),
    "in_progress": frozenset({"finalizing", "cancelling", "expired"}),
    "finalizing": frozenset({"completed"}),
    "cancelling": frozenset({"cancelled"}),
    "failed": frozenset(),
    # A retry takes a batch that ended up again, for what it left undone.
    "completed": frozenset({"in_progress"}),
    "expired": frozenset({"in_progress"}),
    "cancelled": frozenset({"in_progress"}),
}

# pending: waits for a worker. leased: one worker holds it. done: every line has a result. closed: the batch ended before that.
CHUNK_TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "pending": frozenset({"leased", "closed"}),
    "leased": frozenset({"pending", "done", "closed"}),
    # A retry opens what has requests left: failed ones in a done chunk, any in a closed one.
    "done": frozenset({"pending"}),
    "closed": frozenset({"pending"}),
}

TERMINAL: Final[frozenset[str]] = frozenset({"completed", "failed", "expired", "cancelled"})
OPEN: Final[frozenset[str]] = frozenset(BATCH_TRANSITIONS) - TERMINAL


def sources(transitions: dict[str, frozenset[str]], target: str) -> list[str]:
    """The states from which `target` may be entered: what a compare-and-set update compares with."""
    return sorted(state for state, after in transitions.items() if target in after)
