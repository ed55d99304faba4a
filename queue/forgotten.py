"""What batches took that are no longer kept: hour by hour and pool by pool, so that the meters' joules still add up."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.queue.rows import Row, every
from batchsched.queue.tables import forgotten, ledger, postings
from batchsched.units import start_of_hour

_SUMS = ("busy_s", "energy_j", "grams", "unknown_j")
_FIRST = insert(forgotten)  # SQLite writes it in the same words
_ADD = _FIRST.on_conflict_do_update(
    index_elements=list(forgotten.primary_key.columns),
    set_={name: forgotten.c[name] + _FIRST.excluded[name] for name in _SUMS},
)


def add(connection: Connection, batch_id: str) -> None:
    """Take a batch's entries of the ledger over, in the transaction that removes them: joules and seconds as they stand there,
    grams as they stand in its books."""
    took: dict[tuple[str, str, datetime, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    lines: dict[tuple[str, datetime, str], float] = defaultdict(float)
    columns = ("pool", "model", "started_at", "busy_s", "energy_j", "energy_source", "host_j", "host_source")
    for row in connection.execute(select(*(ledger.c[name] for name in columns)).where(ledger.c.batch_id == batch_id)):
        for source, busy_s, energy_j in ((row.energy_source, row.busy_s, row.energy_j), (row.host_source, 0.0, row.host_j)):
            hour = start_of_hour(row.started_at)
            before_s, before_j = took[row.pool, row.model, hour, source]
            took[row.pool, row.model, hour, source] = before_s + busy_s, before_j + energy_j
            lines[row.pool, hour, source] += energy_j
    grams = _grams(connection, batch_id)
    rows: list[Row] = []
    for (pool, model, hour, source), (busy_s, energy_j) in sorted(took.items()):
        if busy_s or energy_j:
            known, line_j = grams.get((pool, hour, source)), lines[pool, hour, source]
            key = {"pool": pool, "model": model, "hour": hour, "energy_source": source}
            # The books know no models: those of one hour share its grams by their joules.
            cost = {
                "grams": (known or 0.0) * energy_j / line_j if line_j else 0.0,
                "unknown_j": energy_j if known is None else 0.0,
            }
            rows.append({**key, "busy_s": busy_s, "energy_j": energy_j, **cost})
    if rows:
        connection.execute(_ADD, rows)


def _grams(connection: Connection, batch_id: str) -> dict[tuple[str, datetime, str], float | None]:
    line = (postings.c.pool, postings.c.hour, postings.c.energy_source)
    query = select(*line, func.sum(postings.c.grams)).where(postings.c.batch_id == batch_id, postings.c.kind == "work")
    return {(pool, hour, source): grams for pool, hour, source, grams in connection.execute(query.group_by(*line))}


def of_pools(connection: Connection, start: datetime, end: datetime) -> list[Row]:
    """By pool, over the hours that begin in [start, end): `energy_j`; `grams`, of which those of `unknown_j` are missing."""
    sums = [func.sum(forgotten.c[name]).label(name) for name in ("energy_j", "grams", "unknown_j")]
    query = select(forgotten.c.pool, *sums).where(forgotten.c.hour >= start, forgotten.c.hour < end)
    return every(connection, query.group_by(forgotten.c.pool))
