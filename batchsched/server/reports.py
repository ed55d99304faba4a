"""What is told about a batch beyond its row: progress, what it waits for, energy and grams, and why."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from batchsched.carbon.books import lines
from batchsched.carbon.ledger import total
from batchsched.carbon.operational import operational_g
from batchsched.carbon.report import Report
from batchsched.carbon.report import Row as Ran
from batchsched.clock import Clock
from batchsched.errors import NotFound
from batchsched.forecasts import Provider
from batchsched.planner.explain import explain
from batchsched.queue import batches, books, chunks, ledger, plans
from batchsched.queue.database import Database
from batchsched.queue.states import TERMINAL
from batchsched.queue.tenancy import Tenant
from batchsched.scheduler import Scheduler
from batchsched.server.accounts import Accounts
from batchsched.server.besides import Besides
from batchsched.server.bookkeeping import posting
from batchsched.server.instants import EARLIEST, LATEST
from batchsched.server.kept import Kept
from batchsched.server.progress import Progress
from batchsched.units import format_grams, from_iso, iso

ENDED_S = 300.0
"""The account of a batch that ended changes only when a better intensity becomes known, or a straggler's work is charged."""
MOST_ENDED = 5000
MOST_IN_ALL = 20_000
"""Batches in one report over all: a few seconds."""


class Reports:
    """Reads rows, the plan in force and the forecasts; changes nothing."""

    def __init__(
        self, database: Database, scheduler: Scheduler, provider: Provider, clock: Clock, accounts: Accounts, besides: Besides
    ) -> None:
        self._database = database
        self._scheduler = scheduler
        self._provider = provider
        self._clock = clock
        self._accounts = accounts
        self._besides = besides
        self._progress = Progress(scheduler, clock)
        self.most = MOST_IN_ALL
        self._ended: Kept[dict[str, Any]] = Kept(clock, for_s=ENDED_S, most=MOST_ENDED)

    def additions(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`progress` and `carbon` of a batch; of one that ended they may be a few minutes old."""
        if row["state"] not in TERMINAL:
            return self._additions(row)
        key = (row["id"], row["round"], row["state"], row["completed"], row["failed"])
        return self._ended.get(key, lambda: self._additions(row))

    def _additions(self, row: Mapping[str, Any]) -> dict[str, Any]:
        with self._database.read() as connection:
            entries = ledger.of_batch(connection, row["id"])
            running_on = chunks.leased_pools(connection, row["id"])
        return {"progress": self._progress.of(row, entries, running_on), "carbon": self._grams(row, entries)}

    def grams(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """`carbon` of a batch as far as it is known now; None where nothing of it ran."""
        with self._database.read() as connection:
            entries = ledger.of_batch(connection, row["id"])
        return self._grams(row, entries)

    def report(self, batch_id: str, tenant: Tenant) -> dict[str, Any]:
        """The whole report of a batch, as JSON. Raises NotFound."""
        with self._database.read() as connection:
            row = batches.get(connection, batch_id, tenant)
            entries = ledger.of_batch(connection, batch_id)
        report = msgspec.structs.replace(self._accounts.whole(row, entries), beside=self._besides.of(row, entries))
        return {"batch_id": batch_id, **report.to_plain()}

    def books(self, batch_id: str, tenant: Tenant) -> dict[str, Any]:
        """What was entered in the books of a batch, and when. Raises NotFound."""
        with self._database.read() as connection:
            batches.get(connection, batch_id, tenant)
            rows = books.of_batch(connection, batch_id)
        entries = [posting(row) for row in rows]
        told = lines(entries).values()
        known = [line.grams for line in told if line.grams is not None]
        return {
            "batch_id": batch_id,
            "energy_j": math.fsum(entry.energy_j for entry in entries),
            "grams": math.fsum(known) if known else None,
            "unknown_energy_j": math.fsum(line.energy_j for line in told if line.grams is None),
            "entries": [
                {"posted_at": row["posted_at"], **msgspec.structs.asdict(entry)} for row, entry in zip(rows, entries, strict=True)
            ],
        }

    def total(self, tenant: Tenant, start: datetime = EARLIEST, end: datetime = LATEST) -> dict[str, Any]:
        """One report over a tenant's batches that were created in [start, end), as far as they ran; over the newest where they
        are too many, which its first note says. Raises NotFound where none ran."""
        with self._database.read() as connection:
            found = batches.newest(connection, tenant, start, end, self.most + 1)
            told = found[: self.most]
            sums = ledger.sums_of_batches(connection, tenant, told[-1]["created_at"], end) if told else []
        if not sums:
            hint = "`batchsched list` shows what was submitted, and what it waits for."
            raise NotFound("No batch has run in this time, so there is nothing to report.", hint=hint)
        truth, of = self._accounts.truth_since(told[-1]["created_at"]), {row["id"]: row for row in told}
        reports = [
            self._accounts.whole(of[batch_id], list(entries), truth)
            for batch_id, entries in itertools.groupby(sums, lambda row: row["batch_id"])
            if batch_id in of
        ]
        whole = total(reports)
        if len(found) > self.most:
            since = iso(told[-1]["created_at"])
            cut = f"Only the newest {self.most:,} batches are here, from {since}: ask for shorter times by 'from' and 'to'."
            whole = msgspec.structs.replace(whole, notes=[cut, *whole.notes])
        return {"batch_id": None, **whole.to_plain()}

    def grams_since(self, tenant: str, at: datetime) -> float:
        """Operational grams of a tenant's work since then, pool by pool and hour by hour; what is not known is left out."""
        with self._database.read() as connection:
            rows = ledger.energy_since(connection, tenant, at)
        fleet, truth, grams = self._scheduler.fleet, self._accounts.truth_since(at), 0.0
        for row in rows:
            hour, site = (
                datetime.fromtimestamp(row["hour"], UTC),
                fleet.site_of(row["pool"]) if row["pool"] in fleet.pools else None,
            )
            mean = truth(site.zone, hour, hour + timedelta(hours=1)).mean_g_per_kwh if site else None
            added_j = fleet.added_j(row["pool"], row["energy_j"], row["busy_s"])
            grams += operational_g(added_j + row["host_j"], site.pue, mean) if site and mean is not None else 0.0
        return grams

    def explanation(self, batch_id: str, tenant: Tenant) -> list[str]:
        """Why a batch runs when and where it does. Raises NotFound."""
        with self._database.read() as connection:
            row = batches.get(connection, batch_id, tenant)
            entries = ledger.of_batch(connection, batch_id)
        report = self._accounts.report(row, entries) if entries else None
        return [*_judged(row), *self._planned(row), *_ran(report)] or [
            f"The batch is {row['state']}; there is nothing to explain yet."
        ]

    def _planned(self, row: Mapping[str, Any]) -> list[str]:
        published = self._scheduler.published
        if row["state"] in TERMINAL or published is None or row["id"] not in published.jobs:
            return []
        latest = published.latest_start_at.get(row["id"])
        latest_s = (latest - published.made_at).total_seconds() if latest else None
        said = explain(
            published.problem,
            published.plan,
            row["id"],
            origin_at=published.made_at,
            latest_start_s=latest_s,
            in_time=published.waits(row["id"], self._clock.now()),
            shadow=published.shadow,
        )
        if row["started"]:
            said.append(_told(row["started"]))
        if frozen := published.overrides.frozen:
            said.append(f"Shifting is frozen since {frozen.since:%d %b %H:%M UTC}: it starts as soon as there is room.")
        said += published.overrides.remarks(published.jobs[row["id"]].pools)
        without = (pool for pool in published.jobs[row["id"]].pools if pool in published.engineless)
        said += [f"Pool {pool} is without an engine: {published.engineless[pool]}" for pool in without]
        said += [why for told in (published.unfit, published.ways) for name in batches.models(row) for why in told.get(name, [])]
        return [*said, *(note for note in published.notes if row["id"] in note)]

    # -- grams --

    def _grams(self, row: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        if not entries:
            return None
        report = self._accounts.report(row, entries)
        return {
            "energy_j": report.energy_j,
            "energy_sources": report.energy_by_source,
            "grams": report.operational_g,
            "grams_run_now": report.baseline_g,
            "unknown_energy_j": report.unknown_energy_j,
            "unmeasured_s": report.unmeasured_s,
            "embodied_g": report.to_plain()["embodied_g"],
            "simulated": report.simulated,
        }

    # -- the picture --

    def plot(self, batch_id: str, tenant: Tenant, kind: str) -> bytes:
        """Intensity, forecast band, and when the batch ran; `kind`: png or svg. Raises NotFound."""
        from batchsched.server.plot import Picture, draw

        with self._database.read() as connection:
            row = batches.get(connection, batch_id, tenant)
            entries = ledger.of_batch(connection, batch_id)
            seen_at = (row["in_progress_at"] or row["created_at"]) + timedelta(seconds=5)
            archived = plans.latest(connection, by=seen_at)
        report = self._accounts.report(row, entries)
        zones = sorted({item.zone for item in report.rows}) or [self._scheduler.fleet.sites[self._scheduler.fleet.home_site].zone]
        end = max([row["deadline_at"], *(item.ended_at for item in report.rows)])
        picture = Picture.of(row, report, zones, end, archived["body"] if archived else None)
        return draw(picture, self._provider, self._clock.now(), kind)


def _judged(row: Mapping[str, Any]) -> list[str]:
    verdict = row["verdict"]
    if not verdict:
        return _paused(row)
    word = "feasible" if verdict["feasible"] else "not feasible"
    said = f"The deadline was judged {word} (probability {verdict['probability']:.0%}). {verdict['reason']}"
    return [said, *_paused(row)]


def ran_there(rows: Sequence[Ran]) -> str:
    """Of one model on one pool, whose grid one source tells: when, in how many stretches, how much, and how clean it was."""
    one, since, until = rows[0], min(row.started_at for row in rows), max(row.ended_at for row in rows)
    ran = f"pool {one.pool} with {one.model}" if one.model else f"pool {one.pool}"
    day = "" if since.date() == until.date() else "%d %b "
    span = f"{since:%d %b %H:%M:%S} to {until:{day}%H:%M:%S UTC}"
    stretches = f" in {len(rows)} stretches, {sum(row.requests for row in rows)} requests," if len(rows) > 1 else ""
    by_energy = all(row.energy_j > 0 for row in rows)  # else by time: joules and seconds do not add up
    known = [
        (row.intensity.mean_g_per_kwh, row.energy_j if by_energy else row.busy_s)
        for row in rows
        if row.intensity.mean_g_per_kwh is not None
    ]
    if not known:
        return f"It ran on {ran} in {one.zone}{stretches} from {span}, at an unknown intensity ({one.intensity.source})."
    mean = sum(g * weight for g, weight in known) / sum(weight for _, weight in known)
    low, high = f"{min(known)[0]:.0f}", f"{max(known)[0]:.0f}"
    grid = f"{mean:.0f} gCO2e/kWh" if low == high else f"{low} to {high}, on average {mean:.0f} gCO2e/kWh"
    return f"It ran on {ran} in {one.zone}{stretches} from {span}, at {grid} ({one.intensity.source})."


def _told(started: Mapping[str, Any]) -> str:
    """That it was told to start now."""
    said = f"It was told to start now at {from_iso(started['since']):%d %b %H:%M:%S UTC}"
    if not started["planned_at"]:
        return f"{said}: it starts as soon as there is room."
    return f"{said}; by the plan it would have waited until {from_iso(started['planned_at']):%d %b %H:%M:%S UTC}."


def _paused(row: Mapping[str, Any]) -> list[str]:
    if row["paused_at"] is None or row["state"] in TERMINAL:
        return []
    since = f"{row['paused_at']:%d %b %H:%M:%S UTC}"
    return [f"It is paused since {since}: nothing of it starts until it is resumed, and its deadline holds all the same."]


def _ran(report: Report | None) -> list[str]:
    """What happened, from the ledger."""
    if report is None:
        return []
    places: defaultdict[tuple[str, str, str, str, bool], list[Ran]] = defaultdict(list)
    for row in report.rows:
        if row.busy_s > 0:  # else it is what the host took beside the GPUs
            seen = row.intensity
            places[row.pool, row.model, row.zone, seen.source, seen.mean_g_per_kwh is None].append(row)
    out = [ran_there(rows) for rows in places.values()]
    if report.operational_g is not None and report.baseline_g is not None and report.saved_g is not None:
        out.append(
            f"So far it cost {format_grams(report.operational_g)} CO2e; the same work run at once at submission would have cost "
            f"{format_grams(report.baseline_g)}."
        )
    elif report.operational_g is not None:
        out.append(f"So far it cost at least {format_grams(report.operational_g)} CO2e: not all of its grams are known yet.")
    return out
