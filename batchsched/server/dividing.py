"""Divides what batches caused beside their work among the ledger's entries, so that any slices of these add up.

An entry pays for an engine start, if it is one; for a share of its pool's idle energy of the day, by busy time; and of what its
batch keeps and sent over the network for its chunk's share, by bytes, of which the chunk's entries bear theirs by busy time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from batchsched.carbon.beside import scaled
from batchsched.carbon.parts import Part, Parts, together
from batchsched.carbon.report import Beside
from batchsched.queue.rows import Row
from batchsched.server.accounts import Accounts
from batchsched.server.besides import Besides
from batchsched.server.lookup import Lookup, by_day


class _Portion(NamedTuple):
    """A chunk's share of something, and what was done for it."""

    share: float
    busy_s: float
    entries: int

    def of(self, row: Mapping[str, Any]) -> float:
        """The share of some of its entries."""
        return self.share * float(row["busy_s"] / self.busy_s if self.busy_s else row["entries"] / self.entries)


class _Batch(NamedTuple):
    """What was kept for a batch and sent, and the portions of its chunks: of all that is kept; of what was sent to a pool."""

    kept: list[Beside]
    forgotten: bool
    sent: dict[str, Beside]
    of_files: dict[str, _Portion]
    of_sent: dict[tuple[str, str], _Portion]


class Division:
    """For one answer, of what was looked up for it."""

    def __init__(self, look: Lookup, accounts: Accounts, besides: Besides) -> None:
        self._look = look
        self._accounts = accounts
        self._besides = besides
        self._idle_of_day = cache(partial(besides.idle_of_day, look=look))
        self._batch = cache(self._gather)

    def parts(self, rows: Sequence[Row], wasted: Sequence[Row] | None = None) -> Parts:
        """Of spans of the ledger; `wasted`: what meters told of work that was lost, None where that cannot be known."""
        told = any(self._idle_of_day(pool, day)[0] for pool, day in by_day(rows))
        waste = self._waste(wasted) if wasted or (told and wasted is not None) else None
        return Parts(self._loading(rows), self._idle(rows), self._network(rows), self._storage(rows), waste)

    def _loading(self, rows: Sequence[Row]) -> Part:
        starts = [found for row in rows if row["startup_s"] > 0 and (found := self._besides.loading([row], self._look.truth))]
        return together(f"{len(starts)} engine start(s); in the sums", starts)

    def _waste(self, wasted: Sequence[Row] | None) -> Part:
        found = [part for row in wasted or () if (part := self._besides.waste([row], self._look.truth))]
        return together("work whose results nobody took", found)

    def _idle(self, rows: Sequence[Row]) -> Part:
        shares: list[Beside] = []
        untold: set[str] = set()
        for (pool, day), busy_s in by_day(rows).items():
            idle, all_s = self._idle_of_day(pool, day)
            if idle is None:
                untold.add(pool)
            else:
                shares.append(scaled(idle, min(1.0, busy_s / all_s) if all_s else 0.0))
        missing = f"no meter told of idle time on pool {', '.join(sorted(untold))}" if untold else ""
        return together("of what the pools took idle on the days of the work, by busy time", shares, missing)

    def _network(self, rows: Sequence[Row]) -> Part:
        owed: defaultdict[tuple[str, str], float] = defaultdict(float)
        lost: set[str] = set()
        for row in rows:
            batch, pool = self._batch(row["batch_id"]), row["pool"]
            if pool in batch.sent:
                owed[row["batch_id"], pool] += batch.of_sent[row["chunk_id"], pool].of(row)
            elif self._accounts.place(pool) is None:
                lost.add(pool)
        shares = [scaled(self._batch(batch_id).sent[pool], share) for (batch_id, pool), share in owed.items()]
        missing = f"nobody knows where pool {', '.join(sorted(lost))} stood" if lost else ""
        return together("data between sites, by bytes" if shares else "no data between sites", shares, missing)

    def _storage(self, rows: Sequence[Row]) -> Part:
        owed: defaultdict[str, float] = defaultdict(float)
        for row in rows:
            owed[row["batch_id"]] += self._batch(row["batch_id"]).of_files[row["chunk_id"]].of(row)
        shares = [scaled(kept, share) for batch_id, share in owed.items() for kept in self._batch(batch_id).kept]
        gone = sum(self._batch(batch_id).forgotten for batch_id in owed)
        missing = f"files of {gone} batch(es) are gone, and for how long they were kept is not known" if gone else ""
        return together("what was kept, by bytes of the work", shares, missing)

    def _gather(self, batch_id: str) -> _Batch:
        work, storage = self._look.work[batch_id], self._besides.storage
        chunks = {row["chunk_id"]: row["bytes"] or 0 for row in work}
        sent, of_sent = self._besides.network(batch_id, self._look), dict[tuple[str, str], _Portion]()
        for pool in sent:  # the bytes of a chunk that moved on went to the pool that had it last
            some = [row for row in work if row["pool"] == pool]
            sizes = {row["chunk_id"]: row["bytes"] or 0 if row["last_pool"] == pool else 0 for row in some}
            of_sent.update({(chunk, pool): portion for chunk, portion in _portions(sizes, some).items()})
        kept = storage.of(batch_id, self._look)
        return _Batch(kept, storage.forgotten(batch_id, self._look), sent, _portions(chunks, work), of_sent)


def _portions(sizes: Mapping[str, int], work: Sequence[Row]) -> dict[str, _Portion]:
    """By size; equal ones where nothing has any."""
    total = sum(sizes.values())
    busy_s: defaultdict[str, float] = defaultdict(float)
    entries: Counter[str] = Counter()
    for row in work:
        busy_s[row["chunk_id"]] += row["busy_s"]
        entries[row["chunk_id"]] += row["entries"]
    return {
        name: _Portion(size / total if total else 1 / len(sizes), busy_s[name], entries[name]) for name, size in sizes.items()
    }
