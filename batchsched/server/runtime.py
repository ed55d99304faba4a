"""Everything that one server process holds, put together once: the composition root of the server side."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from batchsched.carbon.models import Hardware
from batchsched.clock import Clock, IdSource, RandomIds, SystemClock
from batchsched.errors import DatabaseUnavailable, InvalidConfiguration, StorageUnavailable
from batchsched.forecasts.opened import Opened, open_forecasts
from batchsched.queue import chunks, restored
from batchsched.queue.cutting import Cutter
from batchsched.queue.database import Database
from batchsched.queue.leadership import Leadership
from batchsched.queue.results import Recorder
from batchsched.queue.store import SWEEP_AGE_S
from batchsched.queue.stores import open_store, settle, sweep
from batchsched.scheduler import Scheduler
from batchsched.server.accounts import Accounts
from batchsched.server.besides import Besides
from batchsched.server.bookkeeping import Bookkeeping
from batchsched.server.breakdown import Breakdown
from batchsched.server.feeding import feeds_of
from batchsched.server.lifecycle import Lifecycle
from batchsched.server.outside import REAL, Outside
from batchsched.server.quotas import Quotas
from batchsched.server.reports import Reports
from batchsched.server.stored import Storage
from batchsched.server.told import Told
from batchsched.server.webhooks import Webhooks
from batchsched.settings import Loaded
from batchsched.traces import OFF, Tracer

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive

log = logging.getLogger(__name__)


class Runtime:
    """The parts of a running server. Raises DataFolderInUse, InvalidConfiguration, StorageFull while it is made."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        outside: Outside = REAL,
        tracer: Tracer = OFF,
    ) -> None:
        self.settings = loaded.settings
        self.fleet = loaded.settings.fleet(loaded.catalogue)
        self.clock: Clock = clock or SystemClock()
        self.ids: IdSource = ids or RandomIds()
        self._tracer = tracer
        self.started_at = self.clock.now()
        self.not_started: Exception | None = None
        """Why `start` failed, where it did."""
        self.rules = loaded.settings.server.rules()
        root = Path(loaded.settings.server.data_dir)
        where = loaded.settings.server.database_url or root / "batchsched.db"
        self.database = Database(where, lasting=outside.lasting)
        try:
            self.store = outside.store or open_store(loaded.settings.server.store_url, root)
            settle(self.database, self.store)
            restored.fence(self.database, root)
            opened = Opened(outside.provider, None, {}) if outside.provider else self._forecasts(loaded)
            self.provider, self.chain, self.own = opened.provider, opened.chain, opened.own
            provider = opened.provider
            weights = {name: tenant.weight for name, tenant in loaded.settings.tenants.items()}
            self.recorder = Recorder(self.database, self.store, self.ids, weights)
            inputs, mine = bool(loaded.settings.server.inputs_dir), self.ids.new("server")
            self.leadership = Leadership(self.database, mine, self.clock, self._begin_to_lead, inputs=inputs)
            hardware = Hardware(loaded.catalogue, loaded.settings.carbon.embodied_model)
            learnt = self.own.learnt if self.own else lambda _zone: None
            self.scheduler = Scheduler(
                self.database, loaded.settings, provider, self.clock, self.leadership, hardware, learnt, outside.maker
            )
            accounts = Accounts(self.scheduler, provider, self.clock, loaded.settings.carbon, hardware)
            storage = Storage(self.database, accounts, self.clock, loaded.settings, loaded.catalogue)
            besides = Besides(self.database, accounts, storage, loaded.settings.carbon)
            self.reports = Reports(self.database, self.scheduler, provider, self.clock, accounts, besides)
            self.told = Told(tracer, self.database, self.clock, self.reports.grams)
            self.breakdown = Breakdown(self.database, self.store, accounts, besides)
            self.quotas = Quotas(loaded.settings, self.reports.grams_since, self.scheduler.observer.answers, self.clock)
            self.lifecycle = Lifecycle(
                self.database,
                self.store,
                self.recorder,
                Cutter(self.store, self.ids, self.rules),
                self.scheduler,
                self.quotas,
                self.ids,
                self.clock,
                loaded.settings.server.lease_s,
                self.leadership.leading,
                loaded.settings.retention,
                Bookkeeping(self.database, accounts, self.clock) if outside.books else None,
                self.told,
            )
            self.feeds = feeds_of(
                opened,
                loaded.settings,
                lambda: self.archive,
                self.database,
                self.clock,
                self.leadership.leading,
                self.scheduler.poke,
            )
            self.webhooks = Webhooks(self.database, loaded.settings.webhooks, self.ids, self.clock, self.leadership.leading)
        except InvalidConfiguration as problem:
            self.database.close()
            raise InvalidConfiguration(f"{loaded.path or 'the configuration'}: {problem.message}", hint=problem.hint) from None
        except BaseException:
            self.database.close()
            raise

    def _forecasts(self, loaded: Loaded) -> Opened:
        return open_forecasts(loaded.settings.forecast, loaded.base_dir, lambda: self.archive, self.clock)

    @cached_property
    def archive(self) -> Archive:
        """What was known of the grid and when. Opened when it is first asked for: it brings Parquet along."""
        from batchsched.forecasts.archive import Archive

        return Archive(self.settings.archive_folder(), order=self.settings.forecast.order_for)

    def start(self) -> None:
        """Begin to work."""
        self.recover()
        self.scheduler.start()
        self.lifecycle.start()
        self.webhooks.start()
        if self.feeds:
            self.feeds.start()

    def recover(self) -> None:
        """Clear up after whoever was here before, and stand for the lead."""
        alone = not (self.settings.server.store_url or self.settings.server.database_url)
        try:
            sweep(self.database, self.store, 0 if alone else SWEEP_AGE_S)
        except (StorageUnavailable, DatabaseUnavailable) as problem:  # of which the latter was there a moment ago
            log.warning("Leftovers are not swept: %s", problem.message)
        self.leadership.start()

    def stop(self) -> None:
        """End every thread and close the database."""
        if self.feeds:
            self.feeds.stop()
        self.webhooks.stop()
        self.lifecycle.stop()
        self.scheduler.stop()
        self.leadership.stop()
        self.database.checkpoint()
        self.database.close()
        self._tracer.close()

    def _begin_to_lead(self) -> None:
        """Leases get their full time again, for perhaps nobody could send a heartbeat; then plans are made and batches move."""
        with self.database.write() as connection:
            chunks.forgive(connection, self.clock.now(), self.settings.server.lease_s)
        self.scheduler.poke()
        self.lifecycle.poke()
