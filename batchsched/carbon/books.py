"""The books of a batch: what it cost, hour by hour, as entries that are only ever added.

What becomes known later (an hour's intensity was measured at last, or revised; work came in late) is entered as the difference.
The entries up to any instant add up to what was known of the batch then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from batchsched.carbon.operational import operational_g
from batchsched.carbon.report import Entry, Truth
from batchsched.units import start_of_hour
from batchsched.wire import EnergySource

Kind = Literal["work", "waste"]
_REVISED = 1e-9  # relative: less is rounding


class Key(NamedTuple):
    """What has one line in the books: an hour of a pool, by one meter."""

    kind: Kind
    pool: str
    hour: datetime
    energy_source: EnergySource


class Posting(msgspec.Struct, frozen=True):
    """One entry. `energy_j` and `grams` are added to what stood there; `grams` is None while nobody knows it.

    The intensity is the one by which all energy of the line is counted from now on.
    """

    kind: Kind
    pool: str
    site: str
    zone: str
    hour: datetime
    energy_source: EnergySource
    energy_j: float
    pue: float
    intensity_g_per_kwh: float | None
    intensity_source: str
    signal: str
    grams: float | None
    why: str

    @property
    def key(self) -> Key:
        """Its line."""
        return Key(self.kind, self.pool, self.hour, self.energy_source)


class Line(NamedTuple):
    """What the books say of an hour of a pool."""

    energy_j: float
    grams: float | None
    last: Posting


def lines(postings: Iterable[Posting]) -> dict[Key, Line]:
    """The sums."""
    found: dict[Key, list[Posting]] = {}
    for posting in postings:
        found.setdefault(posting.key, []).append(posting)
    return {key: _line(entries) for key, entries in found.items()}


def _line(entries: Sequence[Posting]) -> Line:
    known = [entry.grams for entry in entries if entry.grams is not None]
    return Line(math.fsum(entry.energy_j for entry in entries), math.fsum(known) if known else None, entries[-1])


def corrections(work: Sequence[Entry], waste: Sequence[Entry], truth: Truth, booked: Iterable[Posting]) -> list[Posting]:
    """What has to be added to the books so that they say what is known now.

    An hour that was booked keeps its site, zone and PUE, whatever the configuration says since.
    """
    stands = lines(booked)
    spent: dict[Key, list[Entry]] = {}
    kinds: tuple[tuple[Kind, Sequence[Entry]], ...] = (("work", work), ("waste", waste))
    for kind, entries in kinds:
        for entry in entries:
            hour = start_of_hour(entry.started_at)
            spent.setdefault(Key(kind, entry.pool, hour, entry.energy_source), []).append(entry)
    news = (_correction(key, entries, truth, stands.get(key)) for key, entries in sorted(spent.items()))
    return [posting for posting in news if posting is not None]


def _correction(key: Key, entries: Sequence[Entry], truth: Truth, line: Line | None) -> Posting | None:
    place = line.last if line else entries[0]
    energy_j = math.fsum(entry.energy_j for entry in entries)
    grids = [truth(place.zone, entry.started_at, entry.ended_at) for entry in entries]
    means = [grid.mean_g_per_kwh for grid in grids]
    grams: float | None = None
    if key.energy_source != "unmeasured" and None not in means:
        parts = zip(entries, means, strict=True)
        grams = math.fsum(operational_g(entry.energy_j, place.pue, mean) for entry, mean in parts if mean is not None)
    if line is None:
        more_j, more_g, why = energy_j, grams, "the batch ended"
    else:
        more_j = energy_j - line.energy_j if not _same(energy_j, line.energy_j) else 0.0
        more_g = _difference(grams, line.grams)
        if not more_j and more_g is None:
            return None
        news = "the intensity became known" if line.grams is None else "the intensity was revised"
        why = "work was charged late" if more_j else news
    of_one = operational_g(energy_j, place.pue, 1.0)  # nothing also where there are too few joules to tell
    mean = grams / of_one if grams is not None and of_one else means[-1]
    return Posting(
        *key[:2], place.site, place.zone, *key[2:], more_j, place.pue, mean, grids[-1].source, grids[-1].signal, more_g, why
    )


def _difference(now: float | None, before: float | None) -> float | None:
    """What to add; None where that is nothing, or not known. What was known once is not unknown again."""
    if now is None:
        return None
    if before is None:
        return now
    return None if _same(now, before) else now - before


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_REVISED, abs_tol=1e-12)
