"""A server as in production, for a scene: its queue in a folder that vanishes, its clock ours, its grid the simulation's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from batchsched.clock import Clock
from batchsched.forecasts import Provider
from batchsched.lines import CHAT
from batchsched.lines.checking import Facts
from batchsched.planning import Planner as Limits
from batchsched.queue import files, overrides, spare, trials
from batchsched.queue.database import Database
from batchsched.queue.spare import SpareHour
from batchsched.queue.tenancy import DEFAULT
from batchsched.server.auth import Caller
from batchsched.server.batches import accept
from batchsched.server.options import NewBatch, Options
from batchsched.server.outside import Outside
from batchsched.server.runtime import Runtime
from batchsched.settings import Carbon, Loaded, Retention, Server, Settings
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.making import catalogue_at
from batchsched.simulate.policies import Policy
from batchsched.simulate.policy_maker import PolicyMaker
from batchsched.simulate.scene import Arrival, Scene
from batchsched.simulate.store import Draft, MemoryStore
from batchsched.simulate.truth import Lines
from batchsched.wire import Probe, Trial

TRIALS, TRIAL_S = 4, 60.0
"""Of each model on each pool, and how long one takes."""


class NumberedIds:
    """In the order in which they are handed out, as that of batches is the order of their coming."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, prefix: str) -> str:
        """`prefix_` and a number."""
        self._count += 1
        return f"{prefix}_{self._count:09d}"


class Stage:
    """Opens when it is made; `close()` ends it."""

    def __init__(
        self,
        scene: Scene,
        policy: Policy,
        conditions: Conditions,
        clock: Clock,
        maker: PolicyMaker,
        provider: Provider,
        folder: Path,
    ) -> None:
        """`provider`: the grid as the scheduler sees it."""
        self._scene, self._conditions, self._clock = scene, conditions, clock
        self.store = MemoryStore()
        (folder / "batchsched.db").write_bytes(_empty_database())
        outside = Outside(self.store, provider, maker, lasting=False, books=False)
        loaded = Loaded(
            settings_of(scene, policy, conditions, folder), {}, None, catalogue_at(conditions.embodied, scene.catalogue)
        )
        self.runtime = Runtime(loaded, clock=clock, ids=NumberedIds(), outside=outside)
        self.runtime.recover()
        self._caller = Caller("local", DEFAULT, frozenset(), clock.now(), action="create_batch")

    def close(self) -> None:
        """As a process that dies."""
        self.runtime.leadership.stop()
        self.runtime.database.close()

    def freeze(self, until: datetime) -> None:
        """Nothing is shifted until then."""
        with self.runtime.database.write() as connection:
            overrides.freeze(connection, self._clock.now(), until)

    def profiled(self, measured: Sequence[Trial]) -> None:
        """What a profile run found out."""
        with self.runtime.database.write() as connection:
            trials.add(connection, measured)

    def watched(self, seen: Sequence[SpareHour]) -> None:
        """What each server of spare pools was seen to leave before."""
        servers = [(row, f"{row.pool}/{n}") for row in seen for n in range(self._scene.fleet.pools[row.pool].count)]
        rows = [msgspec.structs.replace(row, server=server) for row, server in servers]
        with self.runtime.database.write() as connection:
            spare.restore(connection, rows, self._clock.now())

    def submit(self, asked: Sequence[tuple[Arrival, Lines]], start: datetime) -> list[str]:
        """The ids under which the queue has these batches now. `start`: of the simulation."""
        drafts = [Draft(lines.number, lines.width, CHAT, arrival.model) for arrival, lines in asked]
        ids = [self.runtime.ids.new("file").replace("_", "-") for _ in asked]
        with self.runtime.database.write() as connection:
            for file_id, draft in zip(ids, drafts, strict=True):
                self.store.draft(file_id, draft)
                files.add(
                    connection,
                    tenant=DEFAULT,
                    id=file_id,
                    purpose="batch",
                    filename="batch.jsonl",
                    bytes=draft.size,
                    sha256="",
                    status="processed",
                    created_at=self._clock.now(),
                    facts=msgspec.to_builtins(self._facts(draft)),
                )
        both = zip(ids, asked, strict=True)
        return [str(accept(self.runtime, self._new(file_id, one, start), self._caller)["id"]) for file_id, (one, _) in both]

    def _new(self, file_id: str, arrival: Arrival, start: datetime) -> NewBatch:
        fleet = self._scene.fleet
        sites = sorted({fleet.pools[name].site for name in arrival.pools})
        options = Options(on_deadline="finish", sites=sites if len(sites) < len(fleet.sites) else None)
        deadline_at = start + timedelta(seconds=arrival.deadline_s)
        return NewBatch(file_id, CHAT, "24h", deadline_at, {"name": arrival.batch_id}, options, None)

    def _facts(self, draft: Draft) -> Facts:
        each = self._conditions.chunk_lines
        spans = [(first, min(draft.lines, first + each)) for first in range(0, draft.lines, each)]
        cuts = [(end - first, first * draft.width, end * draft.width) for first, end in spans]
        return Facts(self.runtime.rules, draft.endpoint, draft.model, draft.lines, None, None, cuts)


def settings_of(scene: Scene, policy: Policy, conditions: Conditions, folder: Path) -> Settings:
    """What an operator of the scene's fleet would have set."""
    risk = policy.risk
    return Settings(
        server=Server(data_dir=str(folder), lease_s=conditions.lease_s, chunk_lines=conditions.chunk_lines),
        planner=Limits(
            slot_s=conditions.slot_s,
            fine_h=conditions.fine_h,
            replan_s=policy.replan_s,
            memory_mb=0,
            solver="greedy",
            risk=risk.weight,
            risk_measure=risk.measure,
            risk_level=risk.level,
            churn=policy.churn,
            min_run_s=policy.min_run_s,
            failures_per_replica_h=conditions.failures_per_replica_h,
            repair_s=conditions.repair_s,
        ),
        carbon=Carbon(
            home_site=scene.fleet.home_site,
            network_kwh_per_gb=scene.network_kwh_per_gb,
            embodied_policy="sunk" if conditions.embodied == "sunk" else "whole_life",
        ),
        retention=Retention(inputs_days=0.0, outputs_days=0.0),
        sites=scene.fleet.sites,
        pools=scene.fleet.pools,
        models=scene.fleet.models,
        windows=scene.windows,
    )


def trials_of(scene: Scene, at: datetime) -> list[Trial]:
    """A profile run of each model on each pool, which finds what the scene's profiles say."""
    kinds = [key for key in sorted(scene.profiles) for _ in range(TRIALS)]
    return [_trial(model, pool, scene, at, f"trial_{n:06d}") for n, (model, pool) in enumerate(kinds, start=1)]


def _trial(model: str, pool: str, scene: Scene, at: datetime, trial_id: str) -> Trial:
    found, share = scene.profiles[model, pool], 0.5
    tokens = round(share * TRIAL_S * found.input_tokens_per_s), round((1 - share) * TRIAL_S * found.output_tokens_per_s)
    return Trial(
        trial_id,
        pool,
        model,
        "simulated",
        Probe("mixed", 500, 200),
        at,
        TRIAL_S,
        1,
        0,
        *tokens,
        found.energy_j(*tokens),
        "nvml_counter",
    )


@cache
def _empty_database() -> bytes:
    """Migrated once a process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "batchsched.db"
        Database(path, lasting=False).close()
        return path.read_bytes()
