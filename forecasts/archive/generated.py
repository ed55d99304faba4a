"""Generation by fuel as the archive keeps it: some slots as they came."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from batchsched.forecasts.archive.records import NOT_YET, PARTS_PER_G, Feed, micros
from batchsched.forecasts.port import FUELS, Generation

GENERATION = "generation"
"""Where another feed names its signal."""
PARTS_PER_MW = PARTS_PER_G
MOST_MW = 1e6


class Power(NamedTuple):
    """Of one slot: whole hundredths of megawatts by fuel; a fuel that is not there is unknown."""

    start: int
    end: int
    mw: dict[str, int]

    def numbers(self) -> tuple[float, ...]:
        """By fuel, in the order of FUELS."""
        return tuple(self.mw.get(fuel, math.nan) for fuel in FUELS)


class Generated(msgspec.Struct, array_like=True, tag="generated", frozen=True):
    """What generated power, as it was known at `received_at`, slot by slot."""

    feed: Feed
    received_at: int
    values: list[Power]

    @classmethod
    def of(cls, values: Iterable[Generation]) -> list[Generated]:
        """A record for each feed; what is no power of a station is unknown, and left out."""
        by_feed: dict[Feed, list[Power]] = {}
        for value in values:
            mw = {
                fuel: round(value.mw[fuel] * PARTS_PER_MW)
                for fuel in FUELS
                if fuel in value.mw and abs(value.mw[fuel]) <= MOST_MW
            }
            if mw:
                feed = Feed(value.zone, value.provider, GENERATION)
                by_feed.setdefault(feed, []).append(Power(micros(value.start), micros(value.end), mw))
        return [cls(feed, NOT_YET, slots) for feed, slots in by_feed.items()]

    def plain(self) -> list[tuple[int, dict[str, Any]]]:
        """A row of a table for each slot, with a column for each fuel, and by which instant it belongs to a month."""
        own = self.feed._asdict() | {"received_at": self.received_at}
        return [(slot.start, own | {"start": slot.start, "end": slot.end} | slot.mw) for slot in self.values]
