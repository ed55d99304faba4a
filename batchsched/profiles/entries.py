"""What the ledger says of a model on a pool, as observations: read on from where it was read before.

A pool that works has news at every look; a thousand entries read and summed up each time would take most of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any

import msgspec

from batchsched.measures import DRAFTED
from batchsched.profiles.measured import Observation, observations_of, pieces_of

MOST = 1000
"""Entries that are looked at: the newest."""
LATELY = 600
"""Of these, so many are looked at piece by piece: how the speed changes while a chunk runs."""
STRETCH_S = 600
"""Single entries are too short to say much, so those of a chunk are summed up, so much of it at most."""
SETTLED_AFTER = timedelta(minutes=5)
"""An entry that ended so long before the newest one grows no more, and none comes in before it."""
Entry = Mapping[str, Any]
_AMOUNTS = ("busy_s", "energy_j", "input_tokens", "output_tokens")


class Entries(msgspec.Struct, frozen=True):
    """The newest entries of a model on a pool. Never changed: threads share it."""

    pieces: bool
    """Are parts of chunks looked at as well?"""
    rows: Sequence[Entry] = ()
    """By number."""
    seen: Mapping[str, list[Observation]] = {}
    """By chunk."""

    @property
    def after(self) -> int:
        """The number behind which entries must be read again."""
        if not self.rows:
            return 0
        settled = max(row["ended_at"] for row in self.rows) - SETTLED_AFTER
        first = next(n for n, row in enumerate(self.rows) if row["ended_at"] > settled)
        number: int = self.rows[first - 1]["id"] if first else 0
        return number

    @property
    def settled(self) -> tuple[int, int, int]:
        """Of those that are not read again: the first number and the last, and how many they are."""
        after = self.after
        return (self.rows[0]["id"], after, sum(row["id"] <= after for row in self.rows)) if after else (0, 0, 0)

    def with_more(self, news: Sequence[Entry]) -> Entries:
        """The same with all entries behind `after` as they are now, in order."""
        after = self.after
        rows = [*(row for row in self.rows if row["id"] <= after), *news][-MOST:]
        since, late_since = (some[0]["id"] if some else 0 for some in (rows, rows[-LATELY:]))
        late_no_more = (row for row in self.rows[-LATELY:] if row["id"] < late_since)
        touched = chain(news, late_no_more, (row for row in self.rows if row["id"] < since or row["id"] > after))
        changed: dict[str, list[Entry]] = {row["chunk_id"]: [] for row in touched}
        for row in rows:
            if row["chunk_id"] in changed:
                changed[row["chunk_id"]].append(row)
        seen = {chunk_id: known for chunk_id, known in self.seen.items() if chunk_id not in changed}
        for chunk_id, its in changed.items():
            late = [row for row in its if row["id"] >= late_since and row["startup_s"] <= 0] if self.pieces else []
            if its:
                seen[chunk_id] = _stays(its) + pieces_of(sorted(late, key=lambda row: (row["ended_at"], row["id"])))
        return Entries(self.pieces, rows, seen)

    @property
    def observations(self) -> list[Observation]:
        """All of it."""
        return list(chain.from_iterable(self.seen.values()))


def _stays(rows: Sequence[Entry]) -> list[Observation]:
    """What was seen of one chunk on the pool, ten minutes of it at most in one; engine starts stay apart."""
    groups: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    began_s = min((int(row["started_at"].timestamp()) for row in rows), default=0)
    for row in rows:
        stretch = (int(row["started_at"].timestamp()) - began_s) // STRETCH_S
        groups[stretch, row["id"] if row["startup_s"] > 0 else 0].append(row)
    return observations_of([_summed(group) for group in groups.values()])


def _summed(rows: Sequence[Entry]) -> Entry:
    sources = {row["energy_source"] for row in rows}
    worst = next((source for source in ("unmeasured", "modelled") if source in sources), max(sources))
    return {
        **rows[0],
        "ended_at": max(row["ended_at"] for row in rows),
        "energy_source": worst,  # a sum is as good as the worst of its parts
        "startup_s": max(row["startup_s"] for row in rows),
        **{name: math.fsum(row[name] for row in rows) for name in (*_AMOUNTS, *DRAFTED) if name in rows[0]},
    }
