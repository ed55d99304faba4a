"""What a saving came from: another time, another place, other GPUs, spare capacity.

The choices act together (a cleaner hour saves less on a clean grid), so what one of them saved depends on which of the others are
made already. Each gets the mean of what it saves over all orders in which they can be made, its Shapley value (Shapley, "A value
for n-person games", 1953). These add up to the saving, and none depends on an order that somebody chose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import msgspec

from batchsched.carbon.hardware import Range
from batchsched.carbon.operational import operational_g
from batchsched.carbon.report import Entry, Report, RunNow, Saving, Truth

CHOICES = ("time", "place", "gpu", "spare")
_BOTH = (False, True)
Grams = Callable[[frozenset[str]], float]
"""Operational grams where only these choices were made."""


class _Unknown(Exception):
    pass


def with_saving(report: Report, entries: Sequence[Entry], at_once_j: Sequence[float], truth: Truth) -> Report:
    """The report of these entries with its saving taken apart, where all that takes is known: each hour's intensity at home, and
    that of each zone at the time of the baseline. `at_once_j`: the baseline's energy, entry by entry; `truth` is asked
    the same again and again."""
    if report.saved_g is None or report.baseline is None:
        return report
    try:
        saving = _shapley(_counterfactual(list(zip(entries, at_once_j, strict=True)), report.baseline, truth))
        return msgspec.structs.replace(report, saving=saving)
    except _Unknown:
        return report


def with_embodied_g(saved_g: float, before: Range, after: Range) -> Range:
    """The saving, embodied carbon included; all hardware by its low figures, by its middle ones, by its high ones."""
    low, mid, high = (saved_g + b - a for b, a in zip(before.all, after.all, strict=True))
    return Range(min(low, high), mid, max(low, high))


def _counterfactual(pairs: Sequence[tuple[Entry, float]], run_now: RunNow, truth: Truth) -> Grams:
    terms = run_now.terms
    spans = {False: (terms.start, run_now.ends_at)}
    parts: list[tuple[dict[tuple[bool, bool], float], dict[tuple[bool, bool], float]]] = []
    for entry, base_j in pairs:
        attributed_j = entry.energy_j if entry.attributed_j is None else entry.attributed_j
        added = entry.energy_j / attributed_j if attributed_j else 1.0
        joules = {(gpu, spare): (attributed_j if gpu else base_j) * (added if spare else 1.0) for gpu in _BOTH for spare in _BOTH}
        if not any(joules.values()):
            continue
        spans[True] = (entry.started_at, entry.ended_at)
        weights: dict[tuple[bool, bool], float] = {}
        for time, place in itertools.product(_BOTH, _BOTH):
            mean = truth(entry.zone if place else terms.zone, *spans[time]).mean_g_per_kwh
            if mean is None:
                raise _Unknown
            weights[time, place] = operational_g(1.0, entry.pue if place else terms.pue, mean)
        parts.append((joules, weights))

    def grams(made: frozenset[str]) -> float:
        where, what = ("time" in made, "place" in made), ("gpu" in made, "spare" in made)
        return math.fsum(joules[what] * weights[where] for joules, weights in parts)

    return cache(grams)


def _steps() -> list[tuple[str, frozenset[str], frozenset[str], float]]:
    """Each choice after each set of others: the share of all orders in which just these were made before it."""
    found: list[tuple[str, frozenset[str], frozenset[str], float]] = []
    for choice in CHOICES:
        others = [other for other in CHOICES if other != choice]
        for size in range(len(CHOICES)):
            share = 1 / len(CHOICES) / math.comb(len(others), size)
            sets = (frozenset(made) for made in itertools.combinations(others, size))
            found += [(choice, before, before | {choice}, share) for before in sets]
    return found


_STEPS = _steps()


def _shapley(grams: Grams) -> Saving:
    saved: dict[str, float] = dict.fromkeys(CHOICES, 0.0)
    for choice, before, after, share in _STEPS:
        saved[choice] += (grams(before) - grams(after)) * share
    return Saving(**{f"{choice}_g": value for choice, value in saved.items()})
