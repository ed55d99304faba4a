"""What the database tells of some batches and their days: as many statements for one batch as for thousands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import NamedTuple

from sqlalchemy import Connection

from batchsched.carbon.report import Intensity, Truth
from batchsched.queue import caused, files, ledger, spending, workers
from batchsched.queue.rows import Row, by_batch
from batchsched.server.accounts import Accounts

DAY = timedelta(days=1)


class Lookup:
    """Of one moment: read it within one transaction.

    `batches` by id; by batch their `work` (chunk by chunk and pool by pool), `spans` (by model, pool and day), `files`, and
    `sizes` by pool. `truth`: what is known of zones, for spans of any length.
    """

    def __init__(self, connection: Connection, ids: caused.Ids, accounts: Accounts) -> None:
        self.batches = {row["id"]: row for row in caused.facts(connection, ids)}
        self.work = by_batch(caused.worked(connection, ids))
        self.spans = by_batch(caused.days(connection, ids))
        self.files = by_batch(files.kept_for(connection, ids))
        self.sizes = by_batch(caused.sizes(connection, ids))
        spans = [*chain.from_iterable(self.spans.values())]
        self.days = Days(connection, {day_of(row["started_at"]) for row in spans}, {row["pool"] for row in spans})
        began = (row["started_at"] for row in spans)
        kept = (row["created_at"] for row in chain.from_iterable(self.files.values()))
        ran = (row["in_progress_at"] for row in self.batches.values() if row["in_progress_at"])
        since = min((day_of(at) for at in chain(began, kept, ran)), default=None)
        self.truth = in_days(accounts.truth_since(since) if since else accounts.truth)

    def bytes_of(self, batch_id: str) -> dict[str, int]:
        """Bytes of a batch's chunks, requests and results, by the pool that had them last."""
        return {row["pool"]: row["bytes"] for row in self.sizes.get(batch_id, ()) if row["pool"] is not None}

    def result_bytes(self, batch_id: str) -> int:
        """Bytes of the results that a batch's chunks have recorded."""
        return sum(row["result_bytes"] for row in self.sizes.get(batch_id, ()))


class Host(NamedTuple):
    """A machine of a pool: since when it is known, and the bytes of its workers' logs, 0 where none told."""

    first_at: datetime
    logs_bytes: int


class Days:
    """All that was done and measured on some days, among which what many share is divided."""

    def __init__(self, connection: Connection, days: Collection[datetime], pools: Collection[str]) -> None:
        self._busy_s: defaultdict[tuple[datetime, str, str], float] = defaultdict(float)
        self._told: defaultdict[tuple[str, datetime], list[Row]] = defaultdict(list)
        self._present: defaultdict[str, list[Row]] = defaultdict(list)
        if not days:
            return
        start, end, staffed = min(days), max(days) + DAY, workers.pools(connection)
        for row in ledger.busy_of_days(connection, start, end, sorted(staffed.union(pools))):
            day, pool = datetime.fromtimestamp(row["day"], UTC), row["pool"]
            self._busy_s[day, pool, row["model"]] += row["busy_s"]
            self._busy_s[day, pool, ""] += row["busy_s"]
            self._busy_s[day, "", ""] += row["busy_s"] if pool in staffed or row["forgotten"] else 0.0
        for row in spending.of_pools(connection, start, end):
            self._told[row["pool"], day_of(row["hour"])].append(row)
        for row in workers.presence(connection, start, end):
            self._present[row["pool"]].append(row)

    def busy_s(self, day: datetime, pool: str = "", model: str = "") -> float:
        """Replica-seconds of all work that began on a day: on all pools that had workers, of all models, where none is named;
        that of batches which are no longer kept included."""
        return self._busy_s.get((day, pool, model), 0.0)

    def told(self, pool: str, day: datetime) -> list[Row]:
        """What the meters of a pool told of the hours of a day."""
        return self._told.get((pool, day), [])

    def hosts(self, pool: str, day: datetime) -> list[Host]:
        """Machines on which a pool had workers on a day."""
        found: dict[str, Host] = {}
        for row in self._present.get(pool, ()):
            if row["seen_at"] >= day and row["registered_at"] < day + DAY:
                known = found.get(row["host"], Host(row["registered_at"], 0))
                first_at, logs = min(known.first_at, row["registered_at"]), max(known.logs_bytes, row["logs_bytes"] or 0)
                found[row["host"]] = Host(first_at, logs)
        return [*found.values()]


def in_days(truth: Truth) -> Truth:
    """The same, with spans over several days put together from their first, their last, and the days between.

    Thousands of files have the latter in common. A forecast that fills in what nobody measured is the one that held when its part
    of the span began.
    """

    def known(zone: str, start: datetime, end: datetime) -> Intensity:
        first, last = day_of(start + DAY), day_of(end)
        if last <= first:
            return truth(zone, start, end)
        edges = [start, first, last, end]
        parts = [(truth(zone, since, to), (to - since).total_seconds()) for since, to in pairwise(edges) if since < to]
        means = [found.mean_g_per_kwh for found, _ in parts]
        if len({found.signal for found, _ in parts}) > 1:
            return truth(zone, start, end)
        sources = "; ".join(dict.fromkeys(found.source for found, _ in parts))
        if None in means:
            return Intensity(None, sources, parts[0][0].signal)
        total = sum((found.mean_g_per_kwh or 0.0) * seconds for found, seconds in parts)
        return Intensity(total / (end - start).total_seconds(), sources, parts[0][0].signal)

    return known


def day_of(at: datetime) -> datetime:
    """When the day began, in the offset of the instant."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def by_day(rows: Iterable[Row]) -> Counter[tuple[str, datetime]]:
    """Busy seconds of each pool and day."""
    busy_s: Counter[tuple[str, datetime]] = Counter()
    for row in rows:
        busy_s[row["pool"], day_of(row["started_at"])] += row["busy_s"]
    return busy_s
