"""Gathers what was kept for a batch: files and results, weights, offloaded caches, logs, the database, the archive of forecasts.

What is a batch's alone is charged over its time. What many share (weights, logs, database, archive) is charged by days: each
batch that ran on a day has its part of it by busy time, as of idle pools. Sizes of those are today's; nobody wrote down earlier
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchsched.carbon.beside import added, scaled
from batchsched.carbon.report import Beside, Truth
from batchsched.carbon.storage import Medium, Stored, What, keeping
from batchsched.catalogue import Catalogue
from batchsched.clock import Clock
from batchsched.disk import folder_bytes
from batchsched.fleet import Pool, ServedModel, kv_offload_gib
from batchsched.queue import usage
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.server.accounts import Accounts
from batchsched.server.kept import Kept
from batchsched.server.lookup import DAY, Lookup, by_day
from batchsched.settings import Settings
from batchsched.sizes import size_of
from batchsched.units import format_bytes

SIZES_S = 60.0
"""Sizes of folders are looked at file by file, and all batches of a day ask for the same."""
_GIB = 1 << 30
_BY_DAYS = "its part of the days that it ran, by busy time"


class Held(NamedTuple):
    """Some bytes at a site for a while. `held_s`: where it is not all of that while."""

    what: What
    size_bytes: float
    start: datetime
    end: datetime
    site: str
    medium: Medium = "ssd"
    held_s: float | None = None


class _Day(NamedTuple):
    """What something took on a day, how large it was, on how many hosts, and the seconds of all the work that shares it."""

    whole: Beside | None
    all_s: float
    size_bytes: float
    hosts: int


class Storage:
    """Reads sizes; changes nothing."""

    def __init__(self, database: Database, accounts: Accounts, clock: Clock, settings: Settings, catalogue: Catalogue) -> None:
        self._database = database
        self._accounts = accounts
        self._clock = clock
        self._settings = settings
        self._catalogue = catalogue
        self._archive = settings.archive_folder()
        self._sizes: Kept[int] = Kept(clock, for_s=SIZES_S, most=100)
        self._days: Kept[_Day] = Kept(clock, for_s=SIZES_S, most=5000)

    def of(self, batch_id: str, look: Lookup) -> list[Beside]:
        """What is known of it by now."""
        found, spans = [*self._files(batch_id, look), *self._results(batch_id, look)], look.spans.get(batch_id, [])
        for model in dict.fromkeys(row["model"] for row in spans):
            work = [row for row in spans if row["model"] == model]
            found += [*self._weights(model, +by_day(work), look), *self._caches(model, work, look)]
        mine = +by_day(spans)  # days on which nothing was busy share nothing
        return [*found, *self._logs(mine, look), *self._house(mine, look)]

    def _files(self, batch_id: str, look: Lookup) -> Iterator[Beside]:
        for row in look.files.get(batch_id, ()):
            what: What = "input" if row["id"] == row["input_file_id"] else "output"
            end = row["deleted_at"] or self._clock.now()
            until = f" to {end:%d %b %H:%M}, when it was deleted" if row["deleted_at"] else ""
            shared = f", shared by {row['shared']} batches" if row["shared"] > 1 else ""
            how = f"{what} file, {format_bytes(row['bytes'])} since {row['created_at']:%d %b %H:%M}{until}{shared}"
            held = Held(what, row["bytes"], row["created_at"], end, self._accounts.home)
            yield from self._charged(held, how, look.truth, 1 / row["shared"])

    def forgotten(self, batch_id: str, look: Lookup) -> bool:
        """Was one of its files deleted without a note of when? Earlier versions wrote none."""
        batch, known = look.batches[batch_id], {row["id"] for row in look.files.get(batch_id, ())}
        named = {batch[name] for name in ("input_file_id", "output_file_id", "error_file_id")} - {None}
        results = batch["completed"] + batch["failed"] > 0
        return not named <= known or bool(batch["erased_at"] and results and known <= {batch["input_file_id"]})

    def _results(self, batch_id: str, look: Lookup) -> Iterator[Beside]:
        """Of its chunks, until they are merged."""
        size, batch = look.result_bytes(batch_id), look.batches[batch_id]
        ends = [batch[name] for name in ("completed_at", "failed_at", "expired_at", "cancelled_at") if batch[name]]
        if size and batch["in_progress_at"]:
            end = max(ends, default=self._clock.now())
            how = f"results of its chunks, {format_bytes(size)}, as if all had been there while it ran"
            held = Held("output", size, batch["in_progress_at"], end, self._accounts.home)
            yield from self._charged(held, how, look.truth)

    def _weights(self, model: str, mine: Mapping[tuple[str, datetime], float], look: Lookup) -> Iterator[Beside]:
        """A copy on each host of each pool that served it."""
        size, said = self._weight_bytes(self._settings.models.get(model))
        for pool in dict.fromkeys(pool for pool, _ in mine) if size else ():
            days, busy_s = self._on_hosts(look, "weights", mine, pool, model, size)
            hosts = max((day.hosts for day in days.values()), default=0)
            how = f"weights of {model} on {hosts} host(s) of {pool}, {format_bytes(size)} ({said}), {_BY_DAYS}"
            yield from _shared(days, busy_s, how)

    def _logs(self, mine: Mapping[tuple[str, datetime], float], look: Lookup) -> Iterator[Beside]:
        """Of workers and their engines, as the workers told of them last."""
        for pool in dict.fromkeys(pool for pool, _ in mine):
            days, busy_s = self._on_hosts(look, "log", mine, pool)
            size, hosts = max(((day.size_bytes, day.hosts) for day in days.values()), default=(0.0, 0))
            how = f"logs on {hosts} host(s) of {pool}, {format_bytes(size)}, {_BY_DAYS}"
            yield from _shared(days, busy_s, how)

    def _on_hosts(
        self,
        look: Lookup,
        what: What,
        mine: Mapping[tuple[str, datetime], float],
        pool: str,
        model: str = "",
        size: float | None = None,
    ) -> tuple[dict[datetime, _Day], dict[datetime, float]]:
        """What is on each host of a pool on the days of our work, and our busy seconds; nothing where its site is not known."""
        site = self._accounts.place(pool)
        busy_s = {day: seconds for (name, day), seconds in mine.items() if name == pool and site is not None}
        return {day: self._day(look, what, size, day, site, pool, model) for day in busy_s if site is not None}, busy_s

    def _weight_bytes(self, model: ServedModel | None) -> tuple[float, str]:
        """Of its folder, where there is one here; else by the number of its parameters."""
        if model is None:
            return 0.0, ""
        if model.path and (found := self._sizes.get(model.path, lambda: folder_bytes(Path(model.path)))):
            return found, "its folder"
        shape = size_of(model.path, model.parameters_b)
        return (shape.weight_bytes, "by its parameters") if shape else (0.0, "")

    def _caches(self, model: str, entries: Sequence[Row], look: Lookup) -> Iterator[Beside]:
        """Memory that engines of the model reserve for offloaded KV caches, for the time that they worked."""
        served = self._settings.models.get(model, ServedModel())
        for pool in dict.fromkeys(row["pool"] for row in entries):
            flags = [*self._settings.pools.get(pool, Pool()).engine_args, *served.engine_args]
            gib, site = kv_offload_gib(flags), self._accounts.place(pool)
            mine = [row for row in entries if row["pool"] == pool]
            if gib is None or site is None:
                continue
            span = min(row["started_at"] for row in mine), max(row["ended_at"] for row in mine)
            held = Held("kv_cache", gib * _GIB, *span, site, "dram", held_s=sum(row["busy_s"] for row in mine))
            how = f"offloaded KV caches on {pool}, {gib:g} GiB of memory while it worked; in the host's share too"
            yield from self._charged(held, how, look.truth)

    def _house(self, mine: Mapping[tuple[str, datetime], float], look: Lookup) -> Iterator[Beside]:
        """What serves all batches, at the home site."""
        kinds: tuple[tuple[What, int, str], ...] = (
            ("log", self._sizes.get("", self._database_bytes), "database: ledger, meters, spending, audit, plans"),
            ("archive", self._sizes.get(self._archive, lambda: folder_bytes(self._archive)), "archive of forecasts"),
        )
        busy_s: dict[datetime, float] = {}
        for (_, day), seconds in mine.items():
            busy_s[day] = busy_s.get(day, 0.0) + seconds
        for what, size, said in kinds:
            days = {day: self._day(look, what, size, day, self._accounts.home) for day in busy_s}
            yield from _shared(days, busy_s, f"{said}, {format_bytes(size)}, {_BY_DAYS}")

    def _database_bytes(self) -> int:
        with self._database.read() as connection:
            return usage.database_bytes(connection)

    def _day(
        self, look: Lookup, what: What, size: float | None, day: datetime, site: str, pool: str = "", model: str = ""
    ) -> _Day:
        """What many share, on one day; on each host of a pool since a worker was first seen there. `size`: None: its logs."""

        def make() -> _Day:
            hosts = look.days.hosts(pool, day) if pool else []
            kept = [(size if size is not None else host.logs_bytes, max(day, host.first_at)) for host in hosts]
            kept = kept or [(size or 0, day)]
            end, total = min(day + DAY, self._clock.now()), sum(each for each, _ in kept)
            byte_s = sum(each * (end - since).total_seconds() for each, since in kept)
            held = Held(what, total, min(since for _, since in kept), end, site, held_s=byte_s / total if total else 0.0)
            whole = next(self._charged(held, "", look.truth), None)
            return _Day(whole, look.days.busy_s(day, pool, model), total, len(kept))

        return self._days.get((what, day, pool, model), make)

    def _charged(self, held: Held, how: str, truth: Truth, share: float = 1.0) -> Iterator[Beside]:
        """A share of what keeping something took; nothing where that was no time, or the catalogue does not know the medium."""
        held_s = max(0.0, (held.end - held.start).total_seconds()) if held.held_s is None else held.held_s
        if not (held.size_bytes and held_s):
            return
        site, years = self._accounts.site(held.site), self._settings.carbon.lifetime_years
        stored = Stored(held.what, held.size_bytes / 1e9, held_s, held.medium)
        grid = truth(site.zone, held.start, held.end)
        kept = keeping(stored, grid.mean_g_per_kwh, pue=site.pue, lifetime_years=years, catalogue=self._catalogue)
        if kept:
            how += "" if kept.energy_j is not None else "; energy not known"
            source = f"{kept.source}; grid {grid.source}"
            whole = Beside("storage", kept.energy_j or 0.0, kept.operational_g, kept.embodied_g, how, source)
            yield scaled(whole, share)


def _shared(days: Mapping[datetime, _Day], busy_s: Mapping[datetime, float], how: str) -> Iterator[Beside]:
    """Our shares of some days as one, by busy time, with the words and the source of the first."""
    parts = [scaled(day.whole, min(1.0, busy_s[at] / day.all_s)) for at, day in days.items() if day.whole and day.all_s]
    if parts:
        yield msgspec.structs.replace(added(parts, how + parts[0].how), source=parts[0].source)
