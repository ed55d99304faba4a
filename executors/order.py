"""In which order the lines of a chunk go to the engine. Results are known by their line numbers, so any order will do.

Prompts that begin alike go together, so that the engine finds what it has computed for one when the next comes. Otherwise the
order of the file stays: longest answers first took the real engine more steps than that, shortest first no fewer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
SHARED_BYTES = 256
"""Prompts are alike when they have this much in common beyond what all have: some 64 tokens, half a block of vLLM's on a CPU."""


def arranged(lines: Iterable[tuple[T, bytes]]) -> list[T]:
    """Lines, each with how its prompt begins, in their order: each together with all that begin as it does."""
    numbered = [(index, line, opening) for index, (line, opening) in enumerate(lines)]
    numbered.sort(key=lambda one: one[2])
    groups = _groups(numbered)
    groups.sort(key=lambda group: min(index for index, _, _ in group))
    return [line for group in groups for _, line, _ in group]


def _groups(ordered: list[tuple[int, T, bytes]]) -> list[list[tuple[int, T, bytes]]]:
    """Cut what is sorted by its opening wherever neighbours are not alike."""
    if not ordered:
        return []
    alike = common(ordered[0][2], ordered[-1][2]) + SHARED_BYTES
    groups = [ordered[:1]]
    for before, one in itertools.pairwise(ordered):
        start = one[2][:alike]
        if len(start) == alike and start == before[2][:alike]:
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
