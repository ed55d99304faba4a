"""What work cost, in slices: by chunk, batch, tenant, pool or site, by request; and what the pools' meters saw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from batchsched.carbon.slices import Answered, RequestShare, Slice, shared, sliced
from batchsched.errors import Conflict, NotFound
from batchsched.lines import iter_lines
from batchsched.queue import batches, caused, chunks, forgotten, ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.states import TERMINAL
from batchsched.queue.store import Store
from batchsched.queue.tenancy import Tenant
from batchsched.server.accounts import Accounts
from batchsched.server.besides import Besides
from batchsched.server.dividing import Division
from batchsched.server.instants import EARLIEST, LATEST
from batchsched.server.lookup import Lookup

By = Literal["batch", "tenant", "pool", "site", "chunk"]

MOST_BATCHES = 20_000
"""Whose work is in one answer: some seconds."""


class PoolEnergy(msgspec.Struct, frozen=True):
    """What a pool drew, and where it went: `metered_j` and `modelled_j` are together the sum of the rest.

    `metered_j`: what meters measured; `modelled_j`: what was modelled by `power_model`, where there is no meter; for
    `unmeasured_s` seconds nothing is known at all.
    `forgotten_j`: what batches took that are no longer kept. `unaccounted_j`: what workers that died had not yet told of, or
    have still in hand; below zero, what was charged before meters were told of.
    """

    pool: str
    metered_j: float
    modelled_j: float
    unmeasured_s: float
    power_model: str
    charged_j: float
    idle_j: float
    waste_j: float
    others_j: float
    forgotten_j: float
    unaccounted_j: float
    idle_g: float | None
    waste_g: float | None
    forgotten_g: float | None


class Breakdown:
    """Reads rows and files; changes nothing."""

    def __init__(self, database: Database, store: Store, accounts: Accounts, besides: Besides) -> None:
        self._database = database
        self._store = store
        self._accounts = accounts
        self._besides = besides
        self.most = MOST_BATCHES

    def slices(self, tenant: Tenant, by: By, start: datetime, end: datetime, batch_id: str | None = None) -> list[Slice]:
        """Of one batch, or of all work that began in [start, end). Raises NotFound."""
        with self._database.read() as connection:
            if batch_id is not None:
                batches.get(connection, batch_id, tenant)
            rows = ledger.spans(connection, tenant, start, end, batch_id)
            look = Lookup(connection, caused.working(tenant, start, end) if batch_id is None else [batch_id], self._accounts)
            wasted = [] if by == "chunk" else spending.wasted(connection, tenant, start, end, batch_id)
        named: dict[str, tuple[list[Row], list[Row]]] = {}
        for which, some in enumerate((rows, wasted)):
            for row in some:
                named.setdefault(self._name(row, by), ([], []))[which].append(row)
        division = Division(look, self._accounts, self._besides)
        answered = {name: row["completed"] for name, row in look.batches.items()} if by == "batch" else {}
        return [
            sliced(
                name,
                self._accounts.alone(work, look.truth),
                division.parts(work, None if by == "chunk" else lost),
                answered.get(name),
            )
            for name, (work, lost) in sorted(named.items())
        ]

    def cut(self, tenant: Tenant, start: datetime, end: datetime) -> datetime | None:
        """From when on slices can be told where too much worked in [start, end) for one answer; None where it did not."""
        with self._database.read() as connection:
            return caused.since(connection, tenant, start, end, self.most)

    def _name(self, row: Mapping[str, Any], by: By) -> str:
        if by == "site":
            return self._accounts.site_of(row["pool"])
        return str(row[{"batch": "batch_id", "chunk": "chunk_id"}.get(by, by)])

    def pools(self, start: datetime, end: datetime) -> list[PoolEnergy]:
        """Every pool, over the hours that begin in [start, end)."""
        with self._database.read() as connection:
            seen = spending.of_pools(connection, start, end)
            charged = ledger.joules_of_pools(connection, start, end)
            gone = {row["pool"]: row for row in forgotten.of_pools(connection, start, end)}
        told: dict[str, list[Row]] = {name: [] for name in sorted({row["pool"] for row in seen} | set(charged) | set(gone))}
        for row in seen:
            told[row["pool"]].append(row)
        return [self._pool(name, rows, charged.get(name, 0.0), gone.get(name)) for name, rows in told.items()]

    def _pool(self, name: str, rows: Sequence[Row], charged_j: float, gone: Row | None) -> PoolEnergy:
        def of(kind: str) -> list[Row]:
            return [row for row in rows if row["kind"] == kind]

        joules = {kind: math.fsum(row["energy_j"] for row in of(kind)) for kind in ("metered", "idle", "waste", "others")}
        modelled_j = math.fsum(row["energy_j"] for row in of("metered") if row["energy_source"] == "modelled")
        unmeasured_s = math.fsum(row["seconds"] for row in of("metered") if row["energy_source"] == "unmeasured")
        grams = {kind: self._accounts.grams_of_hours(of(kind)) for kind in ("idle", "waste")}
        forgotten_j = gone["energy_j"] if gone else 0.0
        forgotten_g = 0.0 if gone is None else gone["grams"] if not gone["unknown_j"] else None
        left_j = joules["metered"] - charged_j - joules["idle"] - joules["waste"] - joules["others"] - forgotten_j
        return PoolEnergy(
            name, joules["metered"] - modelled_j, modelled_j, unmeasured_s, self._accounts.power_model(name),
            charged_j, joules["idle"], joules["waste"], joules["others"], forgotten_j, left_j,
            grams["idle"], grams["waste"], forgotten_g,
        )  # fmt: skip

    def requests(self, batch_id: str, tenant: Tenant) -> Iterator[RequestShare]:
        """Each request's share. Raises NotFound, also where the result files are gone; Conflict while the batch runs."""
        with self._database.read() as connection:
            batch = batches.get(connection, batch_id, tenant)
            if batch["state"] not in TERMINAL:
                raise Conflict(f"Batch '{batch_id}' is {batch['state']}: what each request cost is told when it has ended.")
            rows = ledger.spans(connection, tenant, EARLIEST, LATEST, batch_id)
            look = Lookup(connection, [batch_id], self._accounts)
            cut = chunks.of_batch(connection, batch_id)
        if cut and not (batch["output_file_id"] or batch["error_file_id"]):
            raise NotFound(f"Batch '{batch_id}' has no result files, so its requests are not known.")
        return self._shares(batch, cut, rows, look)

    def _shares(self, batch: Row, cut: Sequence[Row], rows: Sequence[Row], look: Lookup) -> Iterator[RequestShare]:
        good, bad = self._lines(batch["output_file_id"]), self._lines(batch["error_file_id"])
        of_chunk: dict[str, list[Row]] = {}
        for row in rows:
            of_chunk.setdefault(row["chunk_id"], []).append(row)
        division = Division(look, self._accounts, self._besides)
        for chunk in cut:  # both files keep the order of the chunks
            mine = [*itertools.islice(good, chunk["completed"]), *itertools.islice(bad, chunk["lines"] - chunk["completed"])]
            work = of_chunk.get(chunk["id"], [])
            yield from shared(sliced(chunk["id"], self._accounts.alone(work, look.truth), division.parts(work)), mine)

    def _lines(self, file_id: str | None) -> Iterator[Answered]:
        for line in iter_lines(self._store.blocks(file_id)) if file_id else ():
            yield answered(line.data)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    input_tokens: int = 0
    completion_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None
    input_tokens_details: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    body: _Body | None = None


class _Line(msgspec.Struct):
    custom_id: str = ""
    response: _Response | None = None


def answered(line: bytes) -> Answered:
    """A line of a result file; one that tells of no tokens took none."""
    found = msgspec.json.decode(line, type=_Line)
    usage = (found.response and found.response.body and found.response.body.usage) or _Usage()
    details = usage.prompt_tokens_details or usage.input_tokens_details or {}
    return Answered(
        found.custom_id,
        usage.prompt_tokens or usage.input_tokens,
        int(details.get("cached_tokens") or 0),
        usage.completion_tokens or usage.output_tokens,
    )
