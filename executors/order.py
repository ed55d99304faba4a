"""In which order the lines of a chunk go to the engine. Results are known by their line numbers, so any order will do.

Prompts that begin alike go together, so that the engine finds what it has computed for one when the next comes; and long answers
go early, so that the last ones in flight are short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

T = TypeVar("T")
SHARED_BYTES = 256
"""Prompts are alike when they have this much in common beyond what all have: some 64 tokens, half a block of vLLM's on a CPU."""


class Placed(NamedTuple):
    """A line's place in an order: how its prompt begins, and how long its answer may be (tokens, None: without limit)."""

    opening: bytes
    answer_tokens: int | None


def arranged(lines: Iterable[tuple[T, Placed]]) -> list[T]:
    """The lines in their order: those with the longest answers first, each together with all that begin as it does."""
    numbered = [(index, line, placed) for index, (line, placed) in enumerate(lines)]
    numbered.sort(key=lambda one: one[2].opening)
    groups = _groups(numbered)
    groups.sort(key=lambda group: (-max(_longest(one[2]) for one in group), min(one[0] for one in group)))
    return [line for group in groups for _, line, _ in group]


def _groups(ordered: list[tuple[int, T, Placed]]) -> list[list[tuple[int, T, Placed]]]:
    """Cut what is sorted by its opening wherever neighbours are not alike."""
    if not ordered:
        return []
    alike = common(ordered[0][2].opening, ordered[-1][2].opening) + SHARED_BYTES
    groups = [ordered[:1]]
    for before, one in itertools.pairwise(ordered):
        start = one[2].opening[:alike]
        if len(start) == alike and start == before[2].opening[:alike]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def common(one: bytes, other: bytes) -> int:
    """How many bytes two have in common at their beginning. Halving, because comparing slices is so much faster than bytes."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _longest(placed: Placed) -> float:
    return math.inf if placed.answer_tokens is None else placed.answer_tokens
