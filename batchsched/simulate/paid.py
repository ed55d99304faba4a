"""What a simulation cost: the rows of its ledger and its meters, at the intensities that came true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from batchsched.carbon.operational import operational_g
from batchsched.queue import ledger, spending
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.simulate.crew import Moved
from batchsched.simulate.grid import HOUR, Floats, Grid
from batchsched.simulate.outcome import Work
from batchsched.simulate.scene import Scene
from batchsched.units import JOULES_PER_KWH


def paid(database: Database, scene: Scene, grid: Grid, names: Mapping[str, str]) -> list[Work]:
    """What chunks took since the start, and what engines took without work. `names`: of batches in the scene."""
    end = grid.end + timedelta(days=1)
    with database.read() as connection:
        worked = ledger.spans(connection, ANY, grid.start, end)
        idle = spending.of_pools(connection, grid.start, end)
    found: list[Work] = []
    for row in worked:
        if row["batch_id"] in names:
            start_s = (row["started_at"] - grid.start).total_seconds()
            end_s = (row["ended_at"] - grid.start).total_seconds()
            starting_s = row["busy_s"] if row["startup_s"] > 0 else 0.0
            energy_j = row["energy_j"] + row["host_j"]
            name = names[row["batch_id"]]
            found.append(_work(scene, grid, start_s, end_s, row["pool"], name, row["busy_s"], starting_s, energy_j))
    for row in idle:
        if row["kind"] in {"idle", "waste"}:
            start_s = (row["hour"] - grid.start).total_seconds()
            wasted_s = row["seconds"] if row["kind"] == "waste" else 0.0
            end_s = start_s + HOUR.total_seconds()
            found.append(_work(scene, grid, start_s, end_s, row["pool"], "", row["seconds"], wasted_s, row["energy_j"]))
    return sorted(found, key=lambda one: (one.at_s, one.pool, one.batch_id))


def transferred(moved: Sequence[Moved], scene: Scene, grid: Grid, names: Mapping[str, str], kwh_per_gb: float) -> Iterator[Work]:
    """What the network took for files of batches, by the mean grid of both ends, as plans weigh it."""
    home = grid.truth[scene.fleet.sites[scene.fleet.home_site].zone]
    for one in moved:
        if one.gigabytes > 0 and one.batch_id in names:
            there = grid.truth[scene.fleet.zone_of(one.pool)]
            mean = (mean_over(home, one.at_s, one.at_s) + mean_over(there, one.at_s, one.at_s)) / 2
            energy_j = one.gigabytes * kwh_per_gb * JOULES_PER_KWH
            yield Work(one.at_s, one.pool, names[one.batch_id], 0.0, 0.0, energy_j, operational_g(energy_j, 1.0, mean))


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
    scene: Scene,
    grid: Grid,
    start_s: float,
    end_s: float,
    pool: str,
    batch: str,
    seconds: float,
    starting_s: float,
    energy_j: float,
) -> Work:
    site = scene.fleet.site_of(pool)
    grams = operational_g(energy_j, site.pue, mean_over(grid.truth[site.zone], start_s, end_s))
    return Work(start_s, pool, batch, seconds, starting_s, energy_j * site.pue, grams)
