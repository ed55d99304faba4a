"""What profile runs measured: each trial once, whole, with the figures that profiles learn from beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert

from batchsched.measures import DRAFTED
from batchsched.queue.hot import Hot
from batchsched.queue.rows import Row, every
from batchsched.queue.tables import trials
from batchsched.wire import Trial

_SENT = ("sent_bytes", "sent_tokens", "link_bytes_per_s")
_ADD = insert(trials).on_conflict_do_nothing(index_elements=["id"]).returning(trials.c.id)  # SQLite writes it in the same words


def _recent() -> Hot:
    names = ("model", "pool", "ended_at", "busy_s", "energy_j", "energy_source", "startup_s", *DRAFTED, *_SENT)
    known = [trials.c[name] for name in names]
    place = func.row_number().over(partition_by=(trials.c.model, trials.c.pool), order_by=(trials.c.ended_at.desc(), trials.c.id))
    ranked = select(*known, trials.c.input_tokens, trials.c.output_tokens, place.label("place")).where(trials.c.qps.is_(None))
    newest = ranked.subquery()
    return Hot(select(newest).where(newest.c.place <= bindparam("limit")))


_RECENT = _recent()


def add(connection: Connection, measured: Sequence[Trial]) -> int:
    """How many of them were new."""
    return sum(connection.scalar(_ADD, _row(trial)) is not None for trial in measured)


def recent(connection: Connection, limit: int = 500) -> list[Row]:
    """The newest trials at full load of each model on each pool, in columns like those of `ledger.entries`: to learn from."""
    return _RECENT.rows(connection, {"limit": limit})


def page(connection: Connection, pool: str | None = None, model: str | None = None, limit: int = 1000) -> list[Trial]:
    """Whole trials, newest first."""
    query = select(trials.c.body).order_by(trials.c.ended_at.desc(), trials.c.id).limit(limit)
    for column, wanted in ((trials.c.pool, pool), (trials.c.model, model)):
        query = query if wanted is None else query.where(column == wanted)
    return [msgspec.convert(row["body"], Trial) for row in every(connection, query)]


def _row(trial: Trial) -> Row:
    return {
        "id": trial.id,
        "pool": trial.pool,
        "model": trial.model,
        "ended_at": trial.started_at + timedelta(seconds=trial.seconds),
        "qps": trial.probe.qps,
        "busy_s": trial.seconds,
        "startup_s": 0.0,
        "energy_j": trial.total_j or 0.0,
        "energy_source": trial.energy_source,
        "input_tokens": trial.input_tokens,
        "output_tokens": trial.output_tokens,
        **{name: getattr(trial, name) for name in DRAFTED},
        **({name: getattr(trial.partner, name) for name in _SENT} if trial.partner else {}),
        "body": msgspec.to_builtins(trial),
    }
