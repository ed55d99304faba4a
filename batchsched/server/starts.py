"""Which worker of a pool should start an engine: as many as work waits for or the plan has, and no more.

Idle workers ask one after the other, and each would be told to load the model that comes next. So what each was told is kept in
its row until it asks again, and counts as an engine that is there. What cannot wait gets an engine for each chunk of it; the rest
as many as the plan has of its model now. An engine that the plan keeps is not given up while another worker idles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy import Connection

from batchsched.fleet import ServedModel
from batchsched.planner.fairness import Want
from batchsched.queue import chunks, tallies, workers
from batchsched.queue.rows import Row
from batchsched.scheduler import Offer

STARTS = 2.0
"""Who was told to load a model and has not got it after this many times what that should take counts no more."""
LEAST_S = 10.0
"""Sooner it counts in any case: for what takes an engine no time takes an answer and a question some."""


class Starts:
    """The other workers of a pool, as one claim sees them. They are read when first asked for: a worker that gets a chunk asks
    nothing. On PostgreSQL the transaction must hold the pool's turn (`tallies.take_turns`), as one with work to offer does."""

    def __init__(
        self,
        connection: Connection,
        worker: Row,
        ready: Collection[str],
        offer: Offer,
        models: Mapping[str, ServedModel],
        *,
        now: datetime,
        silent_s: float,
        startup_s: Callable[[str, str, str], float],
    ) -> None:
        """`worker`: its row from before this claim; `ready`: what its engine has now; `models`: those declared. `silent_s`: who
        was not heard of for so long is not there. `startup_s`: of an engine, by batch, pool and model."""
        self._connection, self._worker, self._offer, self._now = connection, worker, offer, now
        self._ready, self._models, self._startup_s = frozenset(ready), models, startup_s
        self._since = now - timedelta(seconds=silent_s)
        self._for: str | None = None
        """The batch of which a chunk waits for this worker."""

    # -- what to do --

    def worth(self, model: str, wants: Sequence[Want]) -> bool:
        """Should this worker get a model ready? `wants`: all that is to be served with it and could be leased now."""
        startup_s, renamed = max(want.startup_s for want in wants), all(want.renamed for want in wants)
        if self._full(startup_s) or self._another_could(model, renamed=renamed):
            return False
        hands, pressing = self._hands(model, startup_s, renamed=renamed), [want for want in wants if want.pressing]
        if not self._wait(wants, hands, ()):  # whoever else was told: then no other pool is kept waiting
            return False
        told = self._told(wants)
        if self._wait(pressing, hands, told):
            return True
        if len(pressing) == len(wants) or not self._wait(wants, hands, told):
            return False
        # What may be leased has a place in the plan now, be it with another model than this worker can have.
        return hands + self._busy(model) < max(1, self._offer.engines.get(model, 0))

    def coming(self) -> str | None:
        """The model that this worker should get ready for what begins next; None where enough engines are there for that."""
        self._for = None
        for model, one in self._offer.coming.items():
            if model not in self._ready and not self._full(one.startup_s) and not self._another_could(model):
                there = self._hands(model, one.startup_s) + self._busy(model)
                if there < one.engines:
                    return model
        return None

    def told(self, model: str) -> None:
        """This worker is told to get a model ready. One that holds a lease does so when that is done, and asks again before."""
        if self._worker["id"] not in self._holders:
            workers.prepares(self._connection, self._worker, model, self._for, self._now)

    @property
    def kept(self) -> bool:
        """Does the plan count on the engine of this worker?"""
        return not self._ready.isdisjoint(self._offer.keep) and self._worker["id"] in self._kept

    # -- who is there --

    @cached_property
    def _others(self) -> list[Row]:
        return [row for row in self._all if row["id"] != self._worker["id"]]

    @cached_property
    def _all(self) -> list[Row]:
        """Those that get work, in the order in which they came."""
        there = workers.of_pool(self._connection, self._worker["pool"], self._since)
        return [row for row in there if not workers.rests(row)]

    @cached_property
    def _holders(self) -> set[str]:
        return chunks.holders(self._connection, [row["id"] for row in self._all])

    def _hands(self, model: str, startup_s: float, *, renamed: bool = False) -> int:
        """Workers that will take the next chunk of a model: idle ones that have it, and those that load it. `renamed`: requests
        name another, so not those that cannot put this one in its place."""
        since = self._loads_since(startup_s)
        return sum(self._is_hand(row, model, since, renamed=renamed) for row in self._others)

    def _loads_since(self, startup_s: float) -> datetime:
        """Who was told before that to load what takes so long counts no more."""
        return self._now - timedelta(seconds=max(LEAST_S, STARTS * startup_s))

    def _is_hand(self, row: Row, model: str, since: datetime, *, renamed: bool) -> bool:
        if row["id"] in self._holders or (renamed and row["renames"] is False):
            return False
        if row["preparing"]:
            return bool(row["preparing"] == model and row["preparing_at"] >= since)
        return model in row["ready_models"]

    def _full(self, startup_s: float) -> bool:
        """Do as many others work, or load a model, as may where a part of the pool is open? Further engines would be for nothing,
        on GPUs that are not ours now."""
        if self._offer.most is None:
            return False
        since = self._loads_since(startup_s)
        loading = {row["id"] for row in self._others if row["preparing"] and row["preparing_at"] >= since}
        at_work = {row["id"] for row in self._others} & self._holders
        return len(at_work | loading) >= self._offer.most

    def _busy(self, model: str) -> int:
        """Engines of a model at work."""
        return sum(row["id"] in self._holders and model in row["ready_models"] for row in self._others)

    def _told(self, wants: Sequence[Want]) -> list[Row]:
        """Workers of all pools that load a model for a chunk of one of these batches. Until this transaction ends nobody else
        looks: pools that may all serve a batch would each start engines for all of it."""
        tallies.take_turns(self._connection, "starts of all pools")
        there = workers.preparing_for(self._connection, [want.batch_id for want in wants], self._since)
        mine = self._worker["id"]
        return [row for row in there if row["id"] != mine and not workers.rests(row) and self._still_loads(row)]

    def _still_loads(self, row: Row) -> bool:
        """By what a start takes there: another pool may be slower than this one."""
        startup_s = self._startup_s(row["preparing_for"], row["pool"], row["preparing"])
        return bool(row["preparing_at"] >= self._loads_since(startup_s))

    def _wait(self, wants: Sequence[Want], hands: int, told: Sequence[Row]) -> bool:
        """Are there more chunks to lease than workers that will take them: this pool's, and others' that were told to?"""
        more, pool = 1 + hands, self._worker["pool"]
        everywhere = Counter(row["preparing_for"] for row in told)
        elsewhere = Counter(row["preparing_for"] for row in told if row["pool"] != pool)
        self._for = None
        for want in wants:
            name = want.batch_id
            waiting = chunks.claimable(self._connection, name, self._now, more + everywhere[name])
            more -= max(0, waiting - elsewhere[name])
            if self._for is None and waiting > everywhere[name]:
                self._for = name
            if more <= 0:
                return True
        return False

    # -- which engines stay --

    def _another_could(self, model: str, *, renamed: bool = False) -> bool:
        """Is this worker's engine one that the plan keeps, while another that could load the model instead has nothing to do?"""
        return self.kept and any(self._idles(row) and self._can(row, model, renamed=renamed) for row in self._others)

    def _idles(self, row: Row) -> bool:
        return row["id"] not in self._holders and not row["preparing"] and row["id"] not in self._kept

    def _can(self, row: Row, model: str, *, renamed: bool) -> bool:
        return model not in beyond(row, row["lacking"] or (), self._models) and not (renamed and row["renames"] is False)

    @cached_property
    def _kept(self) -> set[str]:
        """Workers whose engines the plan counts on: of each model as many as it has, those at work first, then who came first."""
        found: set[str] = set()
        for model, engines in self._offer.keep.items():
            having = [row for row in self._all if model in workers.models(row)]
            having.sort(key=lambda row: row["id"] not in self._holders and not row["preparing"])
            found |= {row["id"] for row in having[:engines]}
        return found


def beyond(worker: Row, lacking: Collection[str], models: Mapping[str, ServedModel]) -> set[str]:
    """Models that a worker cannot have: those that its engine turned out to lack, ways to serve that it does not know, and
    adapters, where it knows of none."""
    modes = {"standalone", *(worker["modes"] or ())}
    found = {*lacking, *(name for name, model in models.items() if model.mode not in modes)}
    return found if worker["adapters"] is not False else found | {name for name, model in models.items() if model.adapter_of}
