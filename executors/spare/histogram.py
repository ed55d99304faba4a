"""Latency histograms as servers count them: differences of two readings, and what lies above a limit between two bounds."""

from __future__ import annotations

import math
from bisect import bisect_left
from statistics import NormalDist

import msgspec

_NORMAL = NormalDist()


class Histogram(msgspec.Struct, frozen=True):
    """How many of `count` observations, `total` in sum, were at most each of `bounds`; above the last they are only counted."""

    bounds: tuple[float, ...] = ()
    at_most: tuple[float, ...] = ()
    """As long as `bounds`; never falls from one to the next."""
    count: float = 0.0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """None where nothing was observed."""
        return self.total / self.count if self.count > 0 else None

    def since(self, earlier: Histogram) -> Histogram:
        """What came after `earlier`, a reading of the same server since its start."""
        before = earlier.at_most if earlier.bounds == self.bounds else (0.0,) * len(self.bounds)
        return Histogram(
            self.bounds,
            tuple(max(0.0, now - then) for now, then in zip(self.at_most, before, strict=True)),
            max(0.0, self.count - earlier.count),
            max(0.0, self.total - earlier.total),
        )

    def plus(self, other: Histogram, keep: float = 1.0) -> Histogram:
        """Both together; of this one only the part `keep`, so that what is old fades."""
        mine = self.at_most if self.bounds == other.bounds else (0.0,) * len(other.bounds)
        return Histogram(
            other.bounds,
            tuple(keep * ours + theirs for ours, theirs in zip(mine, other.at_most, strict=True)),
            keep * self.count + other.count,
            keep * self.total + other.total,
        )

    def above(self, limit: float) -> float:
        """How many were above the limit. Between two bounds the distribution is continued from below as a log-normal one, but
        never below what is above the upper bound, nor above an exponential fall between the two."""
        if self.count <= 0:
            return 0.0
        upper = bisect_left(self.bounds, limit)
        if upper == len(self.bounds):
            return self.count - (self.at_most[-1] if self.at_most else 0.0)
        more, fewer = self.count - (self.at_most[upper - 1] if upper else 0.0), self.count - self.at_most[upper]
        low = self.bounds[upper - 1] if upper else 0.0
        if more <= 0 or limit == self.bounds[upper]:
            return max(0.0, fewer)
        part = (limit - low) / (self.bounds[upper] - low)
        floor = min(more, 0.5)  # none above the bound is seen as half a one, or the fall would be without end
        falling = more * math.exp(part * math.log(max(fewer, floor) / more))
        continued = self._continued(upper - 1, limit)
        return falling if continued is None else max(fewer, min(falling, continued))

    def _continued(self, at: int, limit: float) -> float | None:
        """Those above `limit` by the log-normal through bound `at` and the one before it that tells most; None without such."""
        if at < 1:
            return None
        here = min(max(self.at_most[at], 0.5), self.count - 0.5) / self.count
        for before in range(at - 1, -1, -1):
            there = self.at_most[before] / self.count
            if 0 < there < 0.7 * here or before == 0:
                there = min(max(self.at_most[before], 0.5), self.count - 0.5) / self.count
                high, low = _NORMAL.inv_cdf(here), _NORMAL.inv_cdf(there)
                if high <= low:
                    return None
                slope = (high - low) / math.log(self.bounds[at] / self.bounds[before])
                return self.count * (1 - _NORMAL.cdf(high + slope * math.log(limit / self.bounds[at])))
        return None

    def quantile(self, q: float) -> float | None:
        """The value that the share `q` stays under, along straight lines between bounds; None where nothing was observed."""
        if self.count <= 0:
            return None
        wanted, low, below = q * self.count, 0.0, 0.0
        for bound, at_most in zip(self.bounds, self.at_most, strict=True):
            if at_most >= wanted:
                return low + (bound - low) * ((wanted - below) / (at_most - below) if at_most > below else 1.0)
            low, below = bound, at_most
        return low
