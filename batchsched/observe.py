"""From rows to the planner's eyes: what is open, how fast, how clean, and what is left to do.

The only place that turns the queue's rows, the forecasts and the profiles into one assignment problem.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from batchsched.carbon.embodied import Held
from batchsched.carbon.models import Hardware
from batchsched.errors import ForecastUnavailable
from batchsched.fleet import Fleet, Pool, cores_of, gpus_of
from batchsched.forecasts import IntensityForecast, Provider
from batchsched.generations import fitted, reasons_of, unfit_of
from batchsched.lines import ENDPOINTS
from batchsched.openings import Openings, Windows, capacity, left_by
from batchsched.planner import Job, PoolState, Problem, Slot, make_slots
from batchsched.planner.latest_start import OpenPool
from batchsched.planner.problem import Effort
from batchsched.planner.uniform import fastest, one_each
from batchsched.profiles.answers import Answers
from batchsched.profiles.candidates import Candidate, pruned
from batchsched.profiles.entries import Entries
from batchsched.profiles.lengths import Lengths, estimate, refine
from batchsched.profiles.measured import Observation, observations_of, update_all
from batchsched.profiles.prior import IN_FLIGHT, prior
from batchsched.profiles.profile import Profile
from batchsched.queue import batches, chunks, launchers, ledger, overrides, spare, tallies, trials, workers
from batchsched.queue.database import Database
from batchsched.queue.overrides import Overrides
from batchsched.queue.rows import Row, by_batch
from batchsched.queue.tenancy import ANY, Tenant
from batchsched.reading import jobs_of
from batchsched.scene import Scene
from batchsched.settings import Settings
from batchsched.sizes import size_of
from batchsched.spare import Share, added, planned, remarks, shares
from batchsched.transfers import Transfers
from batchsched.unable import engineless, lacked, stuck, unable
from batchsched.uncertain import TRANSFER_SIGMA, Uncertain
from batchsched.units import iso
from batchsched.variants import TWO_POOLS, variants_of
from batchsched.ways import Ways, partners_on

if TYPE_CHECKING:
    from batchsched.forecasts.calibration import Calibrator

log = logging.getLogger(__name__)
LOOK_BACK = timedelta(days=30)
LENGTHS_KEPT = timedelta(minutes=1)


class View(msgspec.Struct, frozen=True):
    """One look at everything, at one instant. Seconds count from `now`."""

    now: datetime
    problem: Problem
    pools: list[OpenPool]
    forecasts: dict[str, IntensityForecast]
    leased: dict[tuple[str, str], float]
    """Requests that a pool's workers hold already, by (batch, pool)."""
    tallied: tallies.Tally
    """Every tally at this look."""
    connected: frozenset[str]
    """Pools with a live worker, or a launcher that can start one."""
    overrides: Overrides
    notes: list[str]
    job_of: Callable[[Mapping[str, Any]], Job]
    """The job of a batch's row, as it would be with other options."""
    unfit: dict[str, list[str]] = {}
    """Why pools cannot run a model, by model."""
    ways: dict[str, list[str]] = {}
    """Which other ways to serve a model may be planned where, and why, by model."""
    openings: Openings = Openings({})
    engineless: dict[str, str] = {}
    """Why no worker's engine starts, by pool."""

    def at(self, seconds: float) -> datetime:
        """The instant so many seconds from now."""
        return self.now + timedelta(seconds=seconds)


class Observer:
    """Looks at the queue, the forecasts and the clock."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        provider: Provider,
        hardware: Hardware,
        learnt: Callable[[str], Calibrator | None] = lambda _: None,
    ) -> None:
        """`learnt`: how forecasts of a zone have erred, where that is known."""
        self._database = database
        self._settings = settings
        self._provider = provider
        self._hardware = hardware
        self.fleet: Fleet = settings.fleet(hardware.catalogue)
        self.windows = Windows(settings)
        self._uncertain = Uncertain(settings.planner, self.fleet, hardware, learnt)
        self._answers = Answers()
        self._answers_at: datetime | None = None
        self._seen: dict[tuple[str, str], tuple[tuple[int, datetime], Entries]] = {}
        self._profiles: dict[str, tuple[list[Observation], dict[str, Profile]]] = {}

    def look(self, now: datetime, newcomers: Sequence[Mapping[str, Any]] = ()) -> View:
        """Everything open now; `newcomers`: batches as they would be, in progress or not, looked at beside the others."""
        new = {row["id"] for row in newcomers}
        with self._database.read() as connection:
            rows = [row for row in batches.runnable(connection) if row["id"] not in new]
            parts = by_batch(chunks.summary(connection))
            tallied = tallies.of_all(connection)
            observed = self._observed(connection)
            everything: list[Mapping[str, Any]] = [*rows, *newcomers]
            answers = self.answers(connection, everything, now)
            alive = workers.active(connection, now - timedelta(seconds=self._settings.server.lease_s))
            able = [one for one in launchers.active(connection, now - launchers.SILENT) if one["replicas"]]
            ruled, opened = overrides.active(connection, now), Openings(self.windows.read(connection))
            left = spare.hours(connection, now)
            lost = workers.lost(connection, now - LOOK_BACK, now - timedelta(seconds=self._settings.server.lease_s))
            tied = {row["id"]: chunks.served_by(connection, row["id"]) for row in rows if row["options"].get("uniform")}
        profiles = self.profiles(*observed)
        working = [row for row in alive if not workers.rests(row)]
        loaded = {name: [m for w in working if w["pool"] == name for m in workers.models(w)] for name in self.fleet.pools}
        left_over = shares(self.fleet, left, profiles, observed[0], loaded)
        profiles |= {key: left_over[key[1]].increment(known) for key, known in profiles.items() if key[1] in left_over}
        beside = partners_on(self.fleet, alive)
        replicas = self._replicas(alive, able, beside)
        horizon_s = self._horizon_s(everything, now)
        forecasts, notes = self._forecasts(now, horizon_s + opened.look_ahead().total_seconds())
        opened = opened.judged(forecasts, self.fleet, now, now + timedelta(seconds=horizon_s))
        slots, states, pools = self._assemble(now, horizon_s, replicas, beside, loaded, forecasts, ruled, opened)

        def open_of(pool: str, partners: int) -> list[float]:
            counts = replicas[pool], replicas[pool] + partners
            return left_by(*(capacity(opened.layers(pool, count, now, horizon_s, ruled), slots) for count in counts))

        ways = Ways(self.fleet, profiles, working, replicas, slots, open_of, expected=not alive and not able)
        states = [msgspec.structs.replace(state, loaded=ways.loaded(state.name, state.loaded)) for state in states]
        states, pools = planned(*self._uncertain.doubted(states, pools, profiles, lost, now), left_over, slots, now, self.fleet)
        at_home = [self._at_home(forecasts, now, horizon_s)]
        transfers = Transfers(self._settings, self.fleet, states, at_home, loaded, profiles)
        unfit = lacked(working, {row["pool"] for row in able}, self.fleet) | unfit_of(self.fleet, profiles, loaded)
        scene = Scene(now, self.fleet, profiles, answers, loaded, slots, states, transfers, unfit, ways)

        def job_of(row: Mapping[str, Any]) -> Job:
            return self._job(row, parts.get(row["id"], []), scene, tied.get(row["id"], set()))

        jobs, unread = jobs_of(everything, job_of)
        futures = {} if newcomers else self._uncertain.futures(forecasts, slots, now)  # verdicts go by the mean
        wishes = {"transfer_sigma": TRANSFER_SIGMA, "min_run_s": self._settings.planner.min_run_s}
        problem = one_each(Problem(slots, states, jobs, futures, self._uncertain.risk, ways.links(states), [], **wishes))
        leased = {(s["batch_id"], s["pool"]): float(s["requests"]) for m in parts.values() for s in m if s["state"] == "leased"}
        connected = frozenset(row["pool"] for row in [*working, *able])
        notes += [_remark(found) for found in profiles.values() if found.drift and found.drift.since > now - LOOK_BACK]
        notes += [*unread, *unable(jobs, alive, self.fleet), *remarks(left_over)]
        said = ways.reasons({model for row in everything for model in batches.models(row)})
        reasons = reasons_of(self.fleet, unfit, {(m, row["endpoint"]) for row in everything for m in batches.models(row)})
        notes += [*itertools.chain(*reasons.values(), *said.values()), *ruled.remarks(), *opened.remarks(now)]
        notes += [f"Pool {row['pool']}: {ill}, on {row['host']}." for row in alive for ill in row["ills"] or []]
        notes += [f"Pool {row['pool']}: {workers.resting(row)}." for row in alive if workers.rests(row)] + stuck(alive)

        def as_it_would_be(row: Mapping[str, Any]) -> Job:
            return fastest(job_of(row))

        return View(
            now, problem, pools, forecasts, leased, tallied, connected, ruled, notes, as_it_would_be, reasons, said, opened,
            engineless(working),
        )  # fmt: skip

    def reaching(self, view: View, rows: Sequence[Mapping[str, Any]]) -> View:
        """The view; where these batches, which it need not have, are due after its horizon, another of that instant with them."""
        return self.look(view.now, rows) if self._horizon_s(rows, view.now) > view.problem.end_s + 1.0 else view

    def profiles(
        self, observations: Sequence[Observation], idle_w: Mapping[str, float] | None = None
    ) -> dict[tuple[str, str], Profile]:
        """The profile of each model on each pool that may serve it; `idle_w`: what was measured of idle replicas, by pool."""
        found: dict[tuple[str, str], Profile] = {}
        for model in self.fleet.models:
            for name, known in self._learnt(model, [seen for seen in observations if seen.model == model]).items():
                measured_w = (idle_w or {}).get(name)
                rest_w = min(known.idle_w if measured_w is None else measured_w, known.power_w)
                with_host = known.idle_with_host or measured_w is not None
                found[model, name] = msgspec.structs.replace(known, idle_w=rest_w, idle_with_host=with_host)
        return found

    def _learnt(self, model: str, observations: list[Observation]) -> dict[str, Profile]:
        """A model's profiles by pool; worked out anew where something was seen since."""
        known = self._profiles.get(model)
        if known is None or known[0] != observations:
            priors = self._priors(model)
            known = self._profiles[model] = observations, update_all(priors, observations)
        return known[1]

    def _priors(self, model: str) -> dict[str, Profile]:
        """What is assumed of a model before anything was measured, by pool that may serve it."""
        served = self.fleet.models[model]
        found = {
            name: prior(
                model,
                name,
                self.fleet.gpu_of(name) or pool.gpu,
                size_of(fitted(pool, served, self.fleet.gpus).path, served.parameters_b),
                vcpus=(len(cores_of(pool.cpu.cores)) if pool.cpu else 0) or os.cpu_count() or 1,
                power_w=pool.power_w,
                gpus=gpus_of([*pool.engine_args, *served.engine_args]),
                in_flight=min(pool.most_in_flight, IN_FLIGHT),
            )
            for name, pool in self.fleet.pools.items()
            if pool.serves(model)
        }
        return {name: added(known) if self._on_shared_host(name) else known for name, known in found.items()}

    def _on_shared_host(self, pool: str) -> bool:
        return self.fleet.adds_only(pool) and not self.fleet.is_spare(pool)

    def current_profiles(self) -> dict[tuple[str, str], Profile]:
        """The profiles as the ledger has them now."""
        with self._database.read() as connection:
            return self.profiles(*self._observed(connection))

    def current_shares(self, now: datetime) -> dict[str, Share]:
        """What online users leave of one server of each spare pool, as far as that is known now."""
        if not any(pool.kind == "spare" for pool in self.fleet.pools.values()):
            return {}
        with self._database.read() as connection:
            left, observed = spare.hours(connection, now), self._observed(connection)
        return shares(self.fleet, left, self.profiles(*observed), observed[0])

    def current_answers(self, tenant: str) -> Answers:
        """How long a tenant's own answers were, as the ledger has it now."""
        answers = Answers()
        with self._database.read() as connection:
            for model, endpoint in itertools.product(self.fleet.models, ENDPOINTS):
                answers.learn((tenant, model, endpoint), self._answered(connection, tenant, model, endpoint))
        return answers

    def _observed(self, connection: Connection) -> tuple[list[Observation], dict[str, float]]:
        """What profiles are learnt from: observations, and the watts of idle replicas, by pool."""
        found = observations_of(trials.recent(connection))
        for model, (name, pool) in itertools.product(self.fleet.models, self.fleet.pools.items()):
            found += self._worked(connection, model, name) if pool.serves(model) else []
        return found, workers.idle_power(connection)

    def _worked(self, connection: Connection, model: str, pool: str) -> list[Observation]:
        """What was seen of a model on a pool at work; read on where it worked since."""
        if (newest := ledger.newest(connection, model, pool)) is None:
            self._seen.pop((model, pool), None)
            return []
        none = Entries(pieces=not self.fleet.is_spare(pool))  # there it is online users who come and go
        before, known = self._seen.get((model, pool), (newest, none))
        if known is none or before != newest:
            first, last, many = known.settled  # where retention took some of them, all are read anew
            whole = before[0] <= newest[0] and (not many or ledger.count(connection, model, pool, first, last) == many)
            known = known if whole else none
            known = known.with_more(ledger.entries(connection, model, pool, after=known.after))
            self._seen[model, pool] = newest, known
        return known.observations

    def answers(self, connection: Connection, jobs: Sequence[Mapping[str, Any]], now: datetime) -> Answers:
        """How long answers were, as far as these batches need it; looked up once a minute: it is a lot of rows, and a batch's own
        answers count at once."""
        if self._answers_at is None or not timedelta() <= now - self._answers_at < LENGTHS_KEPT:
            self._answers, self._answers_at = Answers(), now
        answers = self._answers
        for tenant, model, endpoint in {(job["tenant"], model, job["endpoint"]) for job in jobs for model in batches.models(job)}:
            if not answers.knows((tenant, model, endpoint)):
                answers.learn((tenant, model, endpoint), self._answered(connection, tenant, model, endpoint))
            if not answers.knows((model, endpoint)):
                answers.learn((model, endpoint), self._answered(connection, ANY, model, endpoint))
        return answers

    def _answered(self, connection: Connection, tenant: Tenant, model: str, endpoint: str) -> list[Row]:
        """Of a model, in whichever way it was served."""
        names = [model, *variants_of(self.fleet.models, [model])]
        found = [row for name in names for row in ledger.answers(connection, tenant, name, endpoint)]
        return sorted(found, key=lambda row: -int(row["id"])) if len(names) > 1 else found

    def _job(
        self,
        row: Mapping[str, Any],
        mine: Sequence[Mapping[str, Any]],
        scene: Scene,
        tied_to: set[tuple[str, str | None]],
    ) -> Job:
        left = sum(int(share["requests"]) for share in mine) if mine else row["total"] - row["completed"] - row["failed"]
        width = sum(int(share["chunks"]) for share in mine)
        options = row["options"]
        deadline_s, confidence = (row["deadline_at"] - scene.now).total_seconds(), self._confidence(options)
        plain = sum(int(share["plain"]) for share in mine) / max(1, left)
        able = self._candidates(row, scene, left, width or left, plain)
        open_to = [one for one in able if not tied_to or (one.pool, None if one.model == row["model"] else one.model) in tied_to]
        if len({one.model for one in open_to}) > 1:
            open_to = pruned(open_to, scene.outlooks.until(deadline_s), confidence)
        configs = [scene.ways.configuration(one.model, one.pool) for one in open_to]
        keys = [config.pool if config.plain and config.model == row["model"] else config.name for config in configs]
        known = dict(zip(keys, open_to, strict=True))
        moved = {key: scene.transfers.files(one, row["input_bytes"]) for key, one in known.items()}
        weights = {key: scene.transfers.weights(one.model, one.pool) for key, one in known.items()}
        given_up = [one for one in able if one.model == row["model"] and one not in open_to] if len(open_to) < len(able) else []
        return Job(
            batch_id=row["id"],
            model=row["model"],
            remaining_requests=left,
            seconds_on={name: one.seconds + moved[name].seconds for name, one in known.items()},
            power_w_on={name: one.power_w for name, one in known.items()},
            startup_s_on={name: one.profile.startup_s + weights[name].seconds for name, one in known.items()},
            deadline_s=deadline_s,
            sigma=max((one.sigma for one in open_to), default=0.0),
            sigma_own=max((one.lengths.sigma for one in open_to), default=0.0),
            confidence=confidence,
            tenant=row["tenant"],
            priority=row["priority"],
            finish_late=options.get("on_deadline") == "finish",
            uniform=bool(options.get("uniform")) and not tied_to,
            max_replicas=width or None,
            most_in_piece=max((int(share["most"]) for share in mine), default=None),
            configurations={key: config for key, config in zip(keys, configs, strict=True) if key != config.pool},
            as_named={one.pool: Effort(one.seconds, one.power_w, one.profile.startup_s) for one in given_up},
            transfer_g_on={key: each.grams for key, each in moved.items() if each.grams},
            load_g_on={key: each.grams for key, each in weights.items() if each.grams},
            at_once=row["started"] is not None,
            idle_w_on={key: one.profile.idle_w for key, one in known.items() if one.profile.idle_w > 0},
            sure_s={key: s for key, one in known.items() if (s := scene.sure_s.get((one.model, one.pool))) is not None},
        )

    def _candidates(self, row: Mapping[str, Any], scene: Scene, left: int, width: int, plain: float) -> list[Candidate]:
        """The configurations that may serve a batch: an accepted model on a pool of an accepted site. `plain`: the share of what
        is left that drafts do not suit; no way with drafts is for a batch of such alone."""
        named = tuple(batches.models(row))
        lengths = {model: _lengths(row, model, scene.answers) for model in named}
        if not row["options"].get("uniform"):  # of which no chunk may turn out to need the plain way
            ways = scene.ways.beside(named, row["endpoint"])
            lengths |= {way: lengths[base] for way, base in ways.items() if way not in lengths}
        places = [tuple(row["options"].get(name) or ()) for name in ("sites", "zones")]
        found = [
            Candidate(
                profile=scene.profiles[model, pool],
                lengths=lengths[model],
                share=left / max(1, row["total"] - row["completed"]),  # lines that failed leave no tokens, and are no work
                replicas=min(width, scene.ways.replicas(model, pool)),
                loaded=model in scene.loaded[pool],
                scarce=self.fleet.models[model].mode in TWO_POOLS,
                plainly=scene.ways.plainly(model, pool, plain) if model not in named else None,
            )
            for model, pool in scene.accepted(named, *places, row["endpoint"])
            if model in lengths
        ]
        return [one for one in found if one.plainly is None or one.plainly[1] < 1]

    def _confidence(self, options: Mapping[str, Any]) -> float:
        return options.get("confidence") or self._settings.planner.confidence

    def _horizon_s(self, rows: Sequence[Mapping[str, Any]], now: datetime) -> float:
        """As far as any deadline, within the configured horizon; late work still gets a day."""
        limits, soon = self._settings.planner, now + timedelta(seconds=self._settings.planner.slot_s)
        needed = max(((row["deadline_at"] - now).total_seconds() for row in rows), default=0.0)
        if any(row["options"].get("on_deadline") == "finish" and row["deadline_at"] < soon for row in rows):
            needed = max(needed, limits.fine_h * 3600)
        return min(limits.horizon_h * 3600, max(needed, limits.slot_s))

    def _replicas(self, alive: Sequence[Row], able: Sequence[Row], beside: Mapping[str, int]) -> dict[str, int]:
        """Replicas in service of pools' own workers; `beside`: of each pool those that serve beside others' workers, for which it
        has the fewer. Before any worker or launcher has come, the declared ones: they are expected."""
        if not alive and not able:
            return {name: pool.count for name, pool in self.fleet.pools.items()}
        there, pools = Counter(row["pool"] for row in alive), self.fleet.pools.items()
        most = {name: max(pool.count - beside.get(name, 0), min(pool.count, there[name])) for name, pool in pools}
        return {name: launchers.in_service(count, alive, able, name) for name, count in most.items()}

    def _forecasts(self, now: datetime, horizon_s: float) -> tuple[dict[str, IntensityForecast], list[str]]:
        found: dict[str, IntensityForecast] = {}
        notes: list[str] = []
        for zone in sorted({site.zone for site in self.fleet.sites.values()}):
            try:
                found[zone] = self._provider.forecast(zone, now, now + timedelta(seconds=horizon_s))
            except Exception as problem:  # a forecast that fails in whatever way must not stop the work
                if not isinstance(problem, ForecastUnavailable):
                    log.exception("The forecast for zone %s failed.", zone)
                notes.append(f"Zone {zone}: {problem} Its intensity counts as unknown, and is never preferred.")
        return found, notes

    def _at_home(self, forecasts: Mapping[str, IntensityForecast], now: datetime, horizon_s: float) -> float | None:
        """The mean forecast of the home site's grid."""
        site = self.fleet.sites.get(self.fleet.home_site)
        forecast = forecasts.get(site.zone) if site else None
        return forecast.mean_over(now, now + timedelta(seconds=horizon_s)) if forecast else None

    def _assemble(
        self,
        now: datetime,
        horizon_s: float,
        replicas: dict[str, int],
        beside: Mapping[str, int],
        loaded: dict[str, list[str]],
        forecasts: dict[str, IntensityForecast],
        ruled: Overrides,
        opened: Openings,
    ) -> tuple[list[Slot], list[PoolState], list[OpenPool]]:
        layers = {name: opened.layers(name, replicas[name], now, horizon_s, ruled) for name in self.fleet.pools}
        of_beside = [opened.layers(name, count, now, horizon_s, ruled) for name, count in beside.items()]
        limits = self._settings.planner
        edges = [(slot.start - now).total_seconds() for f in forecasts.values() for slot in f.slots if limits.slot_s > 60]
        slots = make_slots(
            horizon_s,
            slot_s=limits.slot_s,
            long_slot_s=limits.long_slot_s,
            fine_s=limits.fine_h * 3600,
            offset_s=limits.slot_s - now.timestamp() % limits.slot_s,
            cuts=[at for each in [*layers.values(), *of_beside] for _, spans in each for span in spans for at in span]
            + _near(edges, limits.fine_h * 3600),
        )
        means = {zone: [_mean_of(forecast, now, slot) for slot in slots] for zone, forecast in forecasts.items()}
        pools: list[PoolState] = []
        for name, pool in self.fleet.pools.items():
            site = self.fleet.site_of(name)
            pools.append(
                PoolState(
                    name=name,
                    site=pool.site,
                    zone=site.zone,
                    replicas=replicas[name],
                    capacity=capacity(layers[name], slots),
                    pue=site.pue,
                    intensity_g_per_kwh=list(means.get(site.zone) or [None] * len(slots)),
                    loaded=loaded[name],
                    simulated=site.simulated,
                    home=pool.site == self.fleet.home_site,
                    newness=self.fleet.newness(name),
                    embodied_g_per_s=self._embodied_g_per_s(pool, self.fleet.replica_gpus[name], now),
                    energy_g_per_kwh=site.electricity_price_per_kwh * limits.grams_per_currency + limits.grams_per_kwh,
                    price_g_per_s=pool.price_per_h / 3600 * limits.grams_per_currency,
                )
            )
        open_pools = [
            OpenPool(name, count, spans)
            for name in layers
            for count, spans in opened.layers(name, replicas[name], now, horizon_s, ruled, back=LOOK_BACK)
        ]
        return slots, pools, open_pools

    def _embodied_g_per_s(self, pool: Pool, gpus: int, now: datetime) -> float | None:
        """What a second of a replica weighs in decisions: nothing where manufacturing is sunk, None where it is not known."""
        carbon = self._settings.carbon
        if carbon.embodied_policy == "sunk":
            return 0.0
        held = Held.of(pool, now.date(), gpus)
        kg = self._hardware.replica_kg(pool.gpu, held)
        return held.charge_g(kg.mid, 3600, carbon.lifetime_years, carbon.embodied_policy) / 3600 if kg else None


def _lengths(row: Mapping[str, Any], model: str, known: Answers) -> Lengths:
    """Tokens of what a batch has left, if this model does it: by what was answered of it, and of others with the model."""
    answers = known.expected(row["tenant"], model, row["endpoint"])
    blind = estimate(row["input_bytes"], row["total"], row["max_tokens_total"], answers)
    return refine(blind, row["total"], row["completed"], row["input_tokens"], row["output_tokens"])


def _mean_of(forecast: IntensityForecast, made_at: datetime, slot: Slot) -> float | None:
    start, end = made_at + timedelta(seconds=slot.start_s), made_at + timedelta(seconds=slot.end_s)
    return _rounded(forecast.mean_over(start, end))


def _rounded(intensity: float | None) -> float | None:
    """To a thousandth of a gram: the noise of floating point must not look like a cleaner hour."""
    return None if intensity is None else round(intensity, 3)


def _remark(found: Profile) -> str:
    """What to tell of a pool that changed its speed."""
    assert found.drift is not None
    return (
        f"Pool {found.pool}: {found.model} takes {found.drift.factor:.2f} times as long since {iso(found.drift.since)}; what was "
        "seen before counts no more."
    )


def _near(edges: list[float], fine_s: float) -> list[float]:
    """Forecast steps that fall inside the fine part: an hourly forecast on a quarter-hour grid adds none."""
    return [edge for edge in edges if 0 < edge < fine_s]
