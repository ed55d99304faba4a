"""From the ledger's rows to a report: where each was, what the grid was then, and what running at once would have taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

import msgspec

from batchsched.carbon.embodied import Held
from batchsched.carbon.ledger import account
from batchsched.carbon.models import Hardware
from batchsched.carbon.report import Baseline, Entry, Intensity, Report, Truth
from batchsched.carbon.savings import with_saving
from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable
from batchsched.fleet import VCPU_MODEL, Pool, Site
from batchsched.forecasts import Provider
from batchsched.forecasts.truth import Hindsight, Known, best_known
from batchsched.profiles import Profile
from batchsched.queue.batches import models as models_of
from batchsched.scheduler import Scheduler
from batchsched.server.at_once import AtOnce, Charged, at_once
from batchsched.server.kept import Kept
from batchsched.settings import Carbon

PROFILES_S = 5.0
"""Profiles are learnt from thousands of rows, and a list of batches asks for them once a batch."""


class Accounts:
    """Reads the fleet, the profiles and the forecasts; a batch's rows are given."""

    def __init__(self, scheduler: Scheduler, provider: Provider, clock: Clock, carbon: Carbon, hardware: Hardware) -> None:
        self._scheduler = scheduler
        self._provider = provider
        self._clock = clock
        self._profiles: Kept[dict[tuple[str, str], Profile]] = Kept(clock, for_s=PROFILES_S, most=1)
        self._terms = carbon.embodied_policy, carbon.lifetime_years, hardware

    def report(self, batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Report:
        """What a batch cost, by its rows of the ledger."""
        return self._report(batch, rows, self.truth)[0]

    def whole(self, batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], truth: Truth | None = None) -> Report:
        """The same with what the saving came from, which asks for more intensities."""
        truth = truth or cache(self.truth)  # half of what the saving asks for, the report has asked for
        report, entries, base = self._report(batch, rows, truth)
        return with_saving(report, entries, [work.energy_j for work in base], truth) if base else report

    def entries(self, rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
        """Rows of the ledger, with their places."""
        return [each.entry for each in self._entries(rows)]

    def wasted(self, rows: Sequence[Mapping[str, Any]]) -> list[Entry]:
        """Rows of what was wasted on a batch, hour by hour."""
        none = {"chunk_id": "", "requests": 0, "input_tokens": 0, "output_tokens": 0, "mark": ""}

        def span(row: Mapping[str, Any]) -> dict[str, Any]:
            return {"started_at": row["hour"], "ended_at": row["hour"] + timedelta(hours=1), "busy_s": row["seconds"]}

        return [self._entry({**row, **none, **span(row)}) for row in rows]

    def alone(self, rows: Sequence[Mapping[str, Any]], truth: Truth | None = None) -> Report:
        """What these rows of the ledger cost, against nothing."""
        return account(self.entries(rows), truth or self.truth, None, *self._terms)

    def grams_of_hours(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """Operational grams of rows that stand for whole hours; None where part of them is unknown."""
        report = self.of_hours(rows)
        return None if report.unknown_energy_j or report.unmeasured_s else report.operational_g or 0.0

    def of_hours(self, rows: Sequence[Mapping[str, Any]], truth: Truth | None = None) -> Report:
        """What rows that stand for whole hours cost."""
        return account(self.wasted(rows), truth or self.truth, None, *self._terms)

    @property
    def home(self) -> str:
        """The home site, where files lie."""
        return self._scheduler.fleet.home_site

    def site(self, name: str) -> Site:
        """A declared site."""
        return self._scheduler.fleet.sites[name]

    def place(self, pool: str) -> str | None:
        """The site of a pool that is declared."""
        found = self._scheduler.fleet.pools.get(pool)
        return found.site if found else None

    def power_model(self, pool: str) -> str:
        """By which figures the energy of a pool is modelled where nothing measures it; empty where nobody knows."""
        found = self._scheduler.fleet.pools.get(pool)
        return found.power_model if found else ""

    def site_of(self, pool: str) -> str:
        """The site of a pool; `unknown` where it is declared no more."""
        return self.place(pool) or "unknown"

    def truth(self, zone: str, start: datetime, end: datetime) -> Intensity:
        """The best that is known by now of a zone; unknown, with the reason, where nobody knows the zone."""
        return _intensity(partial(best_known, self._provider, now=self._clock.now()), zone, start, end)

    def truth_since(self, since: datetime) -> Truth:
        """`truth` for many spans after an instant, with what is known now; a span that is asked twice is looked up once."""
        return cache(partial(_intensity, Hindsight(self._provider, since, self._clock.now()).known))

    def _report(
        self, batch: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], truth: Truth
    ) -> tuple[Report, Sequence[Entry], Sequence[AtOnce]]:
        charged = self._entries(rows)
        entries = [each.entry for each in charged]
        pool = self._baseline_pool(batch["model"]) if entries else None
        base = self._at_once(batch["model"], pool, charged) if pool else []
        baseline = self._baseline(pool, batch, base) if pool else None
        models = models_of(batch)
        accepted = models if len(models) > 1 else ()
        return account(entries, truth, baseline, *self._terms, models_accepted=accepted), entries, base

    def _entries(self, rows: Sequence[Mapping[str, Any]]) -> list[Charged]:
        """The ledger's rows. Running at once would have started its engine once: it is spared all starts but the first.

        After them what their hosts took, which has another source and was no work by itself.
        """
        starts = [i for i, row in enumerate(rows) if row["startup_s"] > 0]
        first, later = starts[:1], {*starts[1:]}
        charged = [Charged(self._entry(row), i in first, i in later) for i, row in enumerate(rows)]
        none: dict[str, Any] = {"busy_s": 0.0, "requests": 0, "input_tokens": 0, "output_tokens": 0, "mark": ""}
        none |= {"beside_s": 0.0}
        none["power_model"] = VCPU_MODEL
        hosts = [
            Charged(
                msgspec.structs.replace(each.entry, **_host(each.entry, row), **none),
                each.start,
                each.spared,
                host=True,
            )
            for each, row in zip(charged, rows, strict=True)
            if row["host_j"] > 0
        ]
        return [*charged, *hosts]

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        """A ledger row with its place; that of a pool which is declared no more is unknown, and so are its grams."""
        fleet = self._scheduler.fleet
        pool = fleet.pools.get(row["pool"], Pool(site="", gpu="unknown"))
        site = fleet.sites.get(pool.site, Site(zone="unknown", pue=1.0))
        added_j = fleet.added_j(row["pool"], row["energy_j"], row["busy_s"])
        return Entry(
            chunk_id=row.get("chunk_id", ""),
            pool=row["pool"],
            site=pool.site or "unknown",
            zone=site.zone,
            simulated=site.simulated,
            gpu=pool.gpu,
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            busy_s=row["busy_s"],
            energy_j=added_j,
            energy_source=row["energy_source"],
            requests=row["requests"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            pue=site.pue,
            mark=row["mark"],
            market_g_per_kwh=site.market_g_per_kwh,
            held=Held.of(pool, row["started_at"].date(), fleet.replica_gpus.get(row["pool"], 1)),
            power_model=pool.power_model,
            model=row.get("model", ""),
            attributed_j=row["energy_j"] if pool.adds_only else None,
            **self._beside(row),
        )

    def _beside(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The replica of a second pool that was there for it: its engine serves nobody else meanwhile. Where that was not told,
        work in a mode of two pools held one all the while."""
        fleet = self._scheduler.fleet
        name, seconds = row.get("beside_pool"), row.get("beside_s", 0.0)
        if name is None:
            served = fleet.models.get(row.get("model", ""))
            name, seconds = served.partner_pool if served else "", row["busy_s"]
        if not name:
            return {}
        pool = fleet.pools.get(name, Pool(site="", gpu="unknown"))
        held = Held.of(pool, row["started_at"].date(), fleet.replica_gpus.get(name, 1))
        return {"beside_gpu": pool.gpu, "beside_held": held, "beside_s": seconds, "beside_adds_only": pool.adds_only}

    def _baseline_pool(self, model: str) -> str | None:
        """The newest pool of the home site, or of all where that has none that runs the model; of spare capacity only where there
        is nothing else."""
        fleet = self._scheduler.fleet
        able = fleet.pools_for(model) if model in fleet.models else []
        able = [name for name in able if fleet.pools[name].kind != "spare"] or able
        at_home = [name for name in able if fleet.pools[name].site == fleet.home_site]
        return max(at_home or able, key=fleet.newness, default=None)

    def _at_once(self, model: str, pool: str, charged: Sequence[Charged]) -> list[AtOnce]:
        """Entry by entry what the baseline takes; as metered where that ran its model on a pool like its own."""
        fleet = self._scheduler.fleet
        alike = {name for name in {each.entry.pool for each in charged} if fleet.alike(name, pool)}
        return at_once(
            charged,
            lambda entry: entry.model == model and entry.pool in alike,
            lambda: self._profiles.get("now", self._scheduler.observer.current_profiles)[model, pool],
        )

    def _baseline(self, name: str, batch: Mapping[str, Any], base: Sequence[AtOnce]) -> Baseline:
        start: datetime = batch["created_at"]
        fleet = self._scheduler.fleet
        pool, site = fleet.pools[name], fleet.site_of(name)
        busy_s = sum(work.busy_s for work in base)
        modelled = any(work.source == "modelled" for work in base)
        return Baseline(
            pool=name,
            site=pool.site,
            zone=site.zone,
            gpu=pool.gpu,
            pue=site.pue,
            start=start,
            energy_j=sum(work.energy_j for work in base),
            energy_source="modelled" if modelled else base[0].source,
            busy_s=busy_s,
            simulated=site.simulated,
            duration_s=busy_s / pool.count,
            held=Held.of(pool, start.date(), fleet.replica_gpus[name]),
            model=batch["model"],
            borrowed=pool.adds_only,
        )


def _host(entry: Entry, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's host took: whole, beside an online service too, since nothing tells its idle part."""
    attributed_j = None if entry.attributed_j is None else row["host_j"]
    return {"energy_j": row["host_j"], "energy_source": row["host_source"], "attributed_j": attributed_j}


def _intensity(known: Callable[[str, datetime, datetime], Known], zone: str, start: datetime, end: datetime) -> Intensity:
    try:
        found = known(zone, start, end)
    except ForecastUnavailable as problem:
        return Intensity(None, problem.message, "unknown")
    return Intensity(found.mean_g_per_kwh, found.source, str(found.signal))
