"""What a simulation cost: the rows of its ledger and its meters, at the intensities that came true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from batchsched.carbon.operational import operational_g
from batchsched.fleet import Fleet
from batchsched.queue import ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.simulate.crew import Moved
from batchsched.simulate.grid import HOUR, Floats, Grid
from batchsched.simulate.outcome import Work
from batchsched.simulate.scene import Scene
from batchsched.units import JOULES_PER_KWH

UNWORKED = frozenset({"idle", "waste"})
"""What pools' meters saw that no chunk is charged for, and that is ours all the same."""


def paid(database: Database, scene: Scene, grid: Grid, names: Mapping[str, str]) -> list[Work]:
    """What chunks took since the start, and what engines took without work. `names`: of batches in the scene."""
    end = grid.end + timedelta(days=1)
    with database.read() as connection:
        spans = ledger.spans(connection, ANY, grid.start, end)
        unworked = spending.of_pools(connection, grid.start, end)
    found = [worked(row, scene.fleet, grid, names[row["batch_id"]]) for row in spans if row["batch_id"] in names]
    found += [stood(row, scene.fleet, grid) for row in unworked if row["kind"] in UNWORKED]
    return in_order(found)


def in_order(work: Iterable[Work]) -> list[Work]:
    """By time."""
    return sorted(work, key=lambda one: (one.at_s, one.pool, one.batch_id))


def worked(row: Row, fleet: Fleet, grid: Grid, batch: str) -> Work:
    """Of a span of the ledger; on a spare pool what was added to its servers' idle watts. The pool must be the fleet's."""
    start_s, end_s = ((row[name] - grid.start).total_seconds() for name in ("started_at", "ended_at"))
    starting_s = row["busy_s"] if row["startup_s"] > 0 else 0.0
    energy_j = fleet.added_j(row["pool"], row["energy_j"], row["busy_s"]) + row["host_j"]
    return _work(fleet, grid, start_s, end_s, row["pool"], batch, row["busy_s"], starting_s, energy_j)


def stood(row: Row, fleet: Fleet, grid: Grid, share: float = 1.0) -> Work:
    """Of a pool's hour without work, or of a share of it. The pool must be the fleet's."""
    start_s = (row["hour"] - grid.start).total_seconds()
    seconds, wasted_s = row["seconds"] * share, row["seconds"] * share if row["kind"] == "waste" else 0.0
    end_s = start_s + HOUR.total_seconds()
    energy_j = share * fleet.added_j(row["pool"], row["energy_j"], row["seconds"])
    return _work(fleet, grid, start_s, end_s, row["pool"], "", seconds, wasted_s, energy_j)


def transferred(moved: Sequence[Moved], scene: Scene, grid: Grid, names: Mapping[str, str], kwh_per_gb: float) -> Iterator[Work]:
    """What the network took for files of batches, by the mean grid of both ends, as plans weigh it."""
    home = grid.truth[scene.fleet.sites[scene.fleet.home_site].zone]
    for one in moved:
        if one.gigabytes > 0 and one.batch_id in names:
            there = grid.truth[scene.fleet.zone_of(one.pool)]
            mean = (mean_over(home, one.at_s, one.at_s) + mean_over(there, one.at_s, one.at_s)) / 2
            energy_j = one.gigabytes * kwh_per_gb * JOULES_PER_KWH
            grams = operational_g(energy_j, 1.0, mean)
            yield Work(one.at_s, one.pool, names[one.batch_id], 0.0, 0.0, energy_j, grams, files=True)


def mean_over(hourly: Floats, start_s: float, end_s: float) -> float:
    """The time-weighted mean; before the first hour and after the last as in these."""
    first, last = int(start_s // 3600), int(max(start_s, end_s - 1e-6) // 3600)
    inside = [min(max(n, 0), len(hourly) - 1) for n in range(first, last + 1)]
    if len(inside) == 1:
        return float(hourly[inside[0]])
    edges = [start_s, *(3600.0 * n for n in range(first + 1, last + 1)), end_s]
    weighed = (float(hourly[n]) * (edges[i + 1] - edges[i]) for i, n in enumerate(inside))
    return sum(weighed) / (end_s - start_s)


def _work(
    fleet: Fleet,
    grid: Grid,
    start_s: float,
    end_s: float,
    pool: str,
    batch: str,
    seconds: float,
    starting_s: float,
    energy_j: float,
) -> Work:
    site = fleet.site_of(pool)
    grams = operational_g(energy_j, site.pue, mean_over(grid.truth[site.zone], start_s, end_s))
    return Work(start_s, pool, batch, seconds, starting_s, energy_j * site.pue, grams)
