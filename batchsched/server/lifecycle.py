"""Moves batches along: validation, the end of leases, deadlines, cancelling, merging. One thread, and every step can be repeated.

Nothing is remembered between two rounds: what has to be done is read from the database each time, so a crash loses nothing.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from batchsched import exposed
from batchsched.clock import Clock, IdSource
from batchsched.errors import BatchschedError, Conflict, DeadlineInfeasible, QuotaExceeded, StorageFull, StorageUnavailable
from batchsched.lines import LineError
from batchsched.queue import batches, chunks, deliveries, files, ledger, workers
from batchsched.queue.cutting import Cut, Cutter
from batchsched.queue.database import Database
from batchsched.queue.merging import merge
from batchsched.queue.reopening import rebuild
from batchsched.queue.results import Recorder
from batchsched.queue.rows import Row
from batchsched.queue.store import Store
from batchsched.queue.stores import sweep
from batchsched.queue.tenancy import ANY
from batchsched.scheduler import Scheduler
from batchsched.server.bookkeeping import Bookkeeping
from batchsched.server.quotas import Quotas
from batchsched.server.retention import Retention
from batchsched.server.told import Told
from batchsched.settings import Retention as RetentionRules

log = logging.getLogger(__name__)
ROUND_S = 1.0
CANCEL_GRACE = timedelta(seconds=30)
CHECKPOINT_ROUNDS = 20
CLOCK_JUMP_S = 5.0
MOST_TOGETHER = 100
"""New batches that are judged together: those of a burst get their verdicts by and by, each round of them with one plan."""
SWEEP_EVERY_S = 6 * 3600.0


class Lifecycle:
    """The housekeeping thread."""

    def __init__(
        self,
        database: Database,
        store: Store,
        recorder: Recorder,
        cutter: Cutter,
        scheduler: Scheduler,
        quotas: Quotas,
        ids: IdSource,
        clock: Clock,
        lease_s: float,
        leading: Callable[[], bool],
        kept: RetentionRules,
        bookkeeping: Bookkeeping | None,
        told: Told,
    ) -> None:
        """`leading`: may this server act? Several servers share the work of one; only the leader keeps house. `bookkeeping`: None
        where nobody will ask for the books."""
        self._database = database
        self._store = store
        self._recorder = recorder
        self._cutter = cutter
        self._scheduler = scheduler
        self._quotas = quotas
        self._ids = ids
        self._clock = clock
        self._lease_s = lease_s
        self._leading = leading
        self._kept = kept
        self._bookkeeping = bookkeeping
        self._told = told
        self._retention = Retention(database, store, kept, clock)
        self._looked: tuple[datetime, float] | None = None
        self._present: set[str] = set()
        self._sweep_at = clock.monotonic() + SWEEP_EVERY_S
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lifecycle", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step in hand."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        """Does its loop turn, once it was started?"""
        return self._thread.ident is None or self._thread.is_alive()

    def poke(self) -> None:
        """Something changed: look again now."""
        self._wake.set()

    def _run(self) -> None:
        rounds = 0
        while not self._stopping:
            self._wake.clear()
            if self._leading():
                self._guarded(self.round)
            else:
                self._looked = None  # what the clock did meanwhile is the leader's business
            rounds += 1
            if rounds % CHECKPOINT_ROUNDS == 0:
                self._guarded(self._database.checkpoint)
            self._wake.wait(ROUND_S)

    def round(self) -> None:
        """Do all that is due now, once."""
        self._guarded(self._rescue)
        self._guarded(self._muster)
        with self._database.read() as connection:
            found = batches.due(connection, self._clock.now())
        steps: dict[str, Callable[[Row], None]] = {
            "in_progress": self._watch,
            "finalizing": self._complete,
            "cancelling": self._cancel,
        }
        new = [batch for batch in found if batch["state"] == "validating"]
        first = {together[0]["id"]: together for together in _together(new)}
        for batch in found:
            if self._stopping or not self._leading():
                return
            if batch["id"] in first:
                self._guarded(partial(self._validate, first[batch["id"]]))
            elif batch["state"] != "validating":
                self._guarded(partial(self._reopen if batch["reopen"] else steps[batch["state"]], batch))
        if self._bookkeeping:
            self._guarded(self._bookkeeping.round)
        self._guarded(self._retention.round)
        self._guarded(self._sweep)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Conflict:
            pass  # somebody else moved the batch meanwhile: the next round sees where it is
        except (StorageFull, StorageUnavailable) as problem:
            log.error("%s The batch waits and goes on by itself.", problem.message)
        except BatchschedError as problem:
            log.error("%s", problem.message)
        except Exception:
            log.exception("A housekeeping step failed; it is tried again.")

    def _rescue(self) -> None:
        now = self._steady_now()
        if now is None:
            return
        with self._database.write() as connection:
            lost = chunks.rescue(connection, now)
            if lost:
                ledger.bump(connection, exposed.LEASES_EXPIRED, by=len(lost))
        if lost:
            log.warning("%d lease(s) ran out without a heartbeat; the chunks are pending again.", len(lost))
            self._scheduler.poke()

    def _muster(self) -> None:
        """A worker that fell silent is missed, whether it held anything or not; one that comes back is welcome."""
        with self._database.read() as connection:
            alive = workers.active(connection, self._clock.now() - timedelta(seconds=self._lease_s))
        present, before = {worker["id"] for worker in alive}, self._present
        self._present = present
        if present != before:
            self._scheduler.poke()

    def _steady_now(self) -> datetime | None:
        """Leases hang on the time of day. Where that jumped (NTP, a machine that slept), they get their full time again, and
        this is None. A second look at the clock might be the one after a jump."""
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        before_wall, before_monotonic = self._looked or (wall, monotonic)
        jump_s = (wall - before_wall).total_seconds() - (monotonic - before_monotonic)
        if abs(jump_s) < CLOCK_JUMP_S:
            self._looked = (wall, monotonic)
            return wall
        log.warning("The clock jumped by %.0f s; every lease gets its full time again.", jump_s)
        with self._database.write() as connection:
            chunks.forgive(connection, wall, self._lease_s)
            if jump_s < 0:
                deliveries.hurry(connection, wall)
        self._looked = (wall, monotonic)  # only now: where the database was away, the next round must know of the jump
        self._scheduler.poke()  # the plan in force was made for another hour
        return None

    def _validate(self, new: Sequence[Row]) -> None:
        """Check their files, judge those that are sound beside each other, and let them begin."""
        sound = list[tuple[Row, Cut]]()
        for batch in new:
            self._guarded(partial(self._check, batch, sound))
        began_at = self._clock.now()
        verdicts = self._scheduler.verdicts([{**batch, **cut.columns} for batch, cut in sound]) if sound else []
        for (batch, cut), verdict in zip(sound, verdicts, strict=True):
            self._told.judged(batch, began_at, verdict)
            self._guarded(partial(self._begin, batch, cut, verdict))
        self._scheduler.poke()

    def _check(self, batch: Row, sound: list[tuple[Row, Cut]]) -> None:
        declared = self._scheduler.fleet.models
        models = {name: declared[name].max_model_len for name in self._scheduler.served_models()}
        try:
            with self._told.step(batch, "validate"):
                with self._database.read() as connection:
                    known = files.facts(connection, batch["input_file_id"], ANY)
                cut = self._cutter.cut(batch["id"], batch["input_file_id"], known, batch["endpoint"], models)
        except FileNotFoundError:
            missing = f"Cannot find file {batch['input_file_id']}."
            self._fail(batch, [LineError("invalid_request", missing, None, "file_id")])
            return
        errors = cut.errors or _too_short(cut, models, batch["options"].get("models") or [])
        if errors:
            self._fail(batch, errors)
        else:
            sound.append((batch, cut))

    def _begin(self, batch: Row, cut: Cut, verdict: dict[str, Any]) -> None:
        now = self._clock.now()
        if batch["options"].get("require_feasible") and not verdict["feasible"]:
            text = f"{DeadlineInfeasible.__doc__} {verdict['reason']}"
            self._fail(batch, [LineError(DeadlineInfeasible.code, text, None, "batchsched.deadline")])
            return
        grams = self._quotas.grams(batch["tenant"])
        try:
            with self._database.write() as connection:
                if batches.get(connection, batch["id"], ANY, lock=True)["deadline_at"] != batch["deadline_at"]:
                    raise Conflict("Its deadline was changed meanwhile; the next round judges that.")
                self._quotas.start(connection, batch, cut.columns, verdict, grams)
                batches.move(connection, batch["id"], "in_progress", now, origin=["validating"], verdict=verdict, **cut.columns)
                chunks.add(connection, cut.chunks)
        except QuotaExceeded as problem:
            self._fail(batch, [LineError(problem.code, problem.message, None, None)])
            return
        _say(batch, "in_progress")

    def _fail(self, batch: Row, errors: list[LineError]) -> None:
        with self._database.write() as connection:
            batches.move(connection, batch["id"], "failed", self._clock.now(), errors=msgspec.to_builtins(errors))
        _say(batch, "failed")
        self._told.ended(batch["id"])

    def _reopen(self, batch: Row) -> None:
        """A retry: before anything else, also before its cancelling or expiry, its chunks get back what was answered."""
        rebuild(self._database, self._store, batch, self._scheduler.verdict(batch))
        self._scheduler.poke()

    def _watch(self, batch: Row) -> None:
        now = self._clock.now()
        with self._database.read() as connection:
            states = set(chunks.by_state(connection, batch["id"]))
        if "closed" in states:  # it expired, and something came between that and its merging
            self._merge(batch, "expired")
        elif states <= {"done"}:
            with self._database.write() as connection:
                batches.move(connection, batch["id"], "finalizing", now, within=batch["round"])
                done = batches.get(connection, batch["id"], ANY)
            self._complete(done)
        elif now >= batch["deadline_at"] and batch["options"].get("on_deadline") != "finish":
            with self._database.write() as connection:
                if now < batches.hold(connection, batch)["deadline_at"]:
                    return  # it was given more time while the steps before this one were taken
                chunks.close(connection, batch["id"], leased_too=True)
            self._merge(batch, "expired")

    def _complete(self, batch: Row) -> None:
        self._merge(batch, "completed")

    def _cancel(self, batch: Row) -> None:
        now = self._clock.now()
        with self._database.write() as connection:
            batches.hold(connection, batch)
            patience_over = now >= batch["cancelling_at"] + CANCEL_GRACE
            chunks.close(connection, batch["id"], leased_too=patience_over)
            states = set(chunks.by_state(connection, batch["id"]))
        if not states & {"pending", "leased"}:  # a worker may just have given one back
            self._merge(batch, "cancelled")

    def _merge(self, batch: Row, target: str) -> None:
        with self._told.step(batch, "merge"):
            merge(self._database, self._store, self._ids, self._kept, batch, target, self._clock.now())
        _say(batch, target)
        self._told.ended(batch["id"])
        self._scheduler.poke()

    def _sweep(self) -> None:
        if self._clock.monotonic() >= self._sweep_at:
            self._sweep_at = self._clock.monotonic() + SWEEP_EVERY_S
            sweep(self._database, self._store)


def _say(batch: Row, state: str) -> None:
    log.info("Batch %s is %s.", batch["id"], state, extra={"batch_id": batch["id"], "state": state})


def _too_short(cut: Cut, models: Mapping[str, int | None], accepted: Sequence[str]) -> list[LineError]:
    """What is wrong with models that a batch accepts beside the one that its lines name: their contexts must hold its answers."""
    limit = (cut.facts and cut.facts.max_tokens) or 0
    text = "'{}' is accepted, but prompt and answer together have at most {} tokens with it, and a line asks for {}."
    found = [(model, models.get(model)) for model in accepted]
    return [
        LineError("invalid_value", text.format(model, longest, limit), None, "batchsched.models")
        for model, longest in found
        if longest is not None and limit >= longest
    ]


def _together(new: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Which batches are judged together; one that may be refused alone, for refused it takes nothing from the others."""
    for alone, found in itertools.groupby(new, lambda batch: bool(batch["options"].get("require_feasible"))):
        run, most = list(found), 1 if alone else MOST_TOGETHER
        yield from (run[i : i + most] for i in range(0, len(run), most))
