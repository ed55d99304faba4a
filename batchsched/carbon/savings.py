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

    def one(entry: Entry, base_j: float, made: frozenset[str]) -> float:
        attributed_j = entry.energy_j if entry.attributed_j is None else entry.attributed_j
        energy_j = attributed_j if "gpu" in made else base_j
        if "spare" in made and attributed_j:
            energy_j *= entry.energy_j / attributed_j
        zone, pue = (entry.zone, entry.pue) if "place" in made else (terms.zone, terms.pue)
        span = (entry.started_at, entry.ended_at) if "time" in made else (terms.start, run_now.ends_at)
        mean = truth(zone, *span).mean_g_per_kwh if energy_j else 0.0
        if mean is None:
            raise _Unknown
        return operational_g(energy_j, pue, mean)

    return cache(lambda made: math.fsum(one(entry, base_j, made) for entry, base_j in pairs))


def _shapley(grams: Grams) -> Saving:
    saved = dict.fromkeys(CHOICES, 0.0)
    orders = list(itertools.permutations(CHOICES))
    for order in orders:
        for place, choice in enumerate(order):
            before = frozenset(order[:place])
            saved[choice] += (grams(before) - grams(before | {choice})) / len(orders)
    return Saving(**{f"{choice}_g": value for choice, value in saved.items()})
