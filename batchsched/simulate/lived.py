"""What batches came to in life, by the ledger: the same things that a simulation of them pays, over the same kind of time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from batchsched.carbon.books import lines
from batchsched.queue import books, forgotten, ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.states import TERMINAL
from batchsched.queue.tenancy import ANY
from batchsched.server.bookkeeping import posting
from batchsched.simulate.crew import Moved
from batchsched.simulate.grid import Grid
from batchsched.simulate.outcome import Outcome, Work
from batchsched.simulate.paid import UNWORKED, in_order, stood, transferred, worked
from batchsched.simulate.scene import Scene
from batchsched.transfers import BYTES_PER_ANSWER_TOKEN
from batchsched.units import kwh

AS_IT_WAS = "as it was"
SLOWNESS = 0.02, 50.0
"""Beyond that it is an accident of measuring."""
ENDS = ("completed_at", "expired_at", "cancelled_at", "failed_at")


class Gone(msgspec.Struct, frozen=True):
    """What a pool took that is declared no more, in kilowatt-hours at the socket. Its grid is unknown now: its grams are those
    of the batches' books, and `unknown_kwh` is what the books have no grams of, which the outcome lacks."""

    pool: str
    kwh: float
    grams: float
    unknown_kwh: float


class Lived(NamedTuple):
    """`unmeasured_s`: replica-seconds of work that nothing measured, which count as nothing; `forgotten_kwh`: what batches took
    in that time that the database keeps no more."""

    outcome: Outcome
    gone: list[Gone]
    unmeasured_s: float
    forgotten_kwh: float
    attached: bool
    """No engine of their pools was started in that time, and none was idle for longer than they worked: all ran anyway, and it
    is known with which model."""
    slowness: dict[str, float]
    """By batch: how many times as long its work took as profiles say."""


class _Seen(NamedTuple):
    """`spans`: of these batches' work; `unworked`: hours without work, each with the share that these batches bear; `started`:
    was an engine of their pools started for anybody?"""

    spans: list[Row]
    unworked: list[tuple[Row, float]]
    forgotten_j: float
    started: bool


def ended_at(row: Row) -> datetime | None:
    """When a batch ended, however it did; None while it is open."""
    return max((row[name] for name in ENDS if row[name]), default=None) if row["state"] in TERMINAL else None


def lived(database: Database, asked: Sequence[Row], scene: Scene, grid: Grid, until: datetime) -> Lived:
    """Of these batches, all of which had ended by `until`. `scene`: with all pools that are declared, and their profiles.

    An engine that stood idle, or started for nothing, belongs to nobody: of what a pool took for that from the grid's start to
    `until`, these batches bear the share that they had in the pool's work; all of it where nobody worked.
    """
    fleet, mine = scene.fleet, {row["id"]: row for row in asked}
    seen = _seen(database, mine.keys(), grid.start, until)
    known = [row for row in seen.spans if row["pool"] in fleet.pools]
    away = [row for row in known if fleet.pools[row["pool"]].site != fleet.home_site]
    moved = [_moved(row, mine[row["batch_id"]], grid) for row in away]
    work = [worked(row, fleet, grid, row["batch_id"]) for row in known]
    work += [stood(row, fleet, grid, share) for row, share in seen.unworked if row["pool"] in fleet.pools]
    work += transferred(moved, scene, grid, {name: name for name in mine}, scene.network_kwh_per_gb)
    pools = {row["pool"] for row in seen.spans} | {row["pool"] for row, _ in seen.unworked}
    gone = [_gone(database, name, seen, grid) for name in sorted(pools - fleet.pools.keys())]
    outcome = Outcome(AS_IT_WAS, len(asked), work=in_order([*work, *(one for _, some in gone for one in some)]))
    outcome.engine_starts = sum(row["startup_s"] > 0 for row in seen.spans)
    for row in asked:
        _ended(outcome, row)
    unmeasured_s = math.fsum(row["busy_s"] for row in seen.spans if row["energy_source"] == "unmeasured")
    idle_s, busy_s = math.fsum(row["seconds"] * share for row, share in seen.unworked), math.fsum(r["busy_s"] for r in seen.spans)
    attached = not seen.started and idle_s < busy_s and one_model_each(asked, scene)
    return Lived(outcome, [one for one, _ in gone], unmeasured_s, kwh(seen.forgotten_j), attached, _slowness(known, scene))


def one_model_each(asked: Sequence[Row], scene: Scene) -> bool:
    """Is it known which model the engines of each pool have? Where these batches ask for one, or no pool may serve two."""
    pools = [pool for _, pool in scene.profiles]
    return len({row["model"] for row in asked}) == 1 or len(pools) == len(set(pools))


def _seen(database: Database, mine: Collection[str], start: datetime, until: datetime) -> _Seen:
    with database.read() as connection:
        spans = ledger.spans(connection, ANY, start, until)
        hours = spending.of_pools(connection, start, until)
        lost = {row["pool"]: row["energy_j"] for row in forgotten.of_pools(connection, start, until)}
    ours, everybodys = defaultdict[str, float](float), defaultdict[str, float](float, lost)
    for row in spans:
        joules = row["energy_j"] + row["host_j"]
        everybodys[row["pool"]] += joules
        ours[row["pool"]] += joules if row["batch_id"] in mine else 0.0

    def share(row: Row) -> float:
        if row["batch_id"]:  # wasted on this one
            return float(row["batch_id"] in mine)
        whole = everybodys[row["pool"]]
        return ours[row["pool"]] / whole if whole > 0 else 1.0

    shared = [(row, share(row)) for row in hours if row["kind"] in UNWORKED]
    own = [row for row in spans if row["batch_id"] in mine]
    started = any(row["startup_s"] > 0 for row in spans if row["pool"] in ours)
    return _Seen(own, [(row, part) for row, part in shared if part > 0], math.fsum(lost.values()), started)


def _slowness(spans: Sequence[Row], scene: Scene) -> dict[str, float]:
    """Starts of engines aside."""
    took_s, expected_s = defaultdict[str, float](float), defaultdict[str, float](float)
    for row in spans:
        profile = scene.profiles.get((row["model"], row["pool"]))
        if profile is not None and row["startup_s"] <= 0:
            took_s[row["batch_id"]] += row["busy_s"]
            expected_s[row["batch_id"]] += profile.seconds(row["input_tokens"], row["output_tokens"])
    least, most = SLOWNESS
    return {name: min(most, max(least, took_s[name] / known_s)) for name, known_s in expected_s.items() if known_s > 0}


def _moved(row: Row, batch: Row, grid: Grid) -> Moved:
    """Of a span's requests and answers."""
    size = row["requests"] * batch["input_bytes"] / batch["total"] + BYTES_PER_ANSWER_TOKEN * row["output_tokens"]
    return Moved((row["started_at"] - grid.start).total_seconds(), row["pool"], row["batch_id"], size / 1e9)


def _gone(database: Database, pool: str, seen: _Seen, grid: Grid) -> tuple[Gone, list[Work]]:
    """What a pool that is declared no more took, and of that what the books know."""
    spans = [row for row in seen.spans if row["pool"] == pool]
    found: list[Work] = []
    known_j = 0.0
    for batch_id in sorted({row["batch_id"] for row in spans}):
        with database.read() as connection:
            booked = lines(posting(row) for row in books.of_batch(connection, batch_id))
        for key, line in booked.items():
            if key.pool == pool and key.kind == "work" and line.grams is not None:
                at_s, energy_j = (key.hour - grid.start).total_seconds(), line.energy_j * line.last.pue
                found.append(Work(at_s, pool, batch_id, 0.0, 0.0, energy_j, line.grams))
                known_j += line.energy_j
    unworked_j = math.fsum(share * row["energy_j"] for row, share in seen.unworked if row["pool"] == pool)
    energy_j = math.fsum(row["energy_j"] + row["host_j"] for row in spans) + unworked_j
    grams = math.fsum(one.grams for one in found)
    return Gone(pool, kwh(energy_j), grams, kwh(max(0.0, energy_j - known_j))), found


def _ended(outcome: Outcome, row: Row) -> None:
    """One that expired has missed its deadline; one that was cancelled before it has not."""
    ended = ended_at(row)
    if ended is None:
        outcome.unfinished.append(row["id"])
        return
    outcome.done(row["id"], (ended - row["created_at"]).total_seconds(), (ended - row["deadline_at"]).total_seconds())
    if row["state"] == "expired" and row["id"] not in outcome.missed:
        outcome.missed.append(row["id"])
