"""What came to an operator's own fleet, as a scene: the batches of the database, with the lengths and speeds that it measured."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from batchsched.carbon.models import Hardware
from batchsched.clock import Clock
from batchsched.errors import InvalidValue
from batchsched.fleet import Fleet
from batchsched.forecasts import Provider
from batchsched.forecasts.opened import open_forecasts
from batchsched.observe import Observer
from batchsched.queue import batches
from batchsched.queue.copying import copy_of
from batchsched.queue.database import Database
from batchsched.queue.states import BATCH_TRANSITIONS
from batchsched.settings import Loaded
from batchsched.simulate.grid import HOUR, Grid
from batchsched.simulate.outcome import Outcome
from batchsched.simulate.paid import paid
from batchsched.simulate.rolling import AFTER_H
from batchsched.simulate.scene import Arrival, Scene

AS_IT_WAS = "as it was"


class History(NamedTuple):
    """`was`: what it came to in life, by the ledger."""

    scene: Scene
    grid: Grid
    was: Outcome


@contextmanager
def history(
    loaded: Loaded, start: datetime, days: int, clock: Clock, without: Collection[str] = (), provider: Provider | None = None
) -> Generator[History]:
    """Of the batches that came in these days. `without`: pools that are taken out of the fleet; `provider`: in place of the
    configured forecasts. Raises InvalidValue where there is nothing to simulate, ForecastUnavailable."""
    start = start.replace(minute=0, second=0, microsecond=0)
    whole = loaded.settings.fleet(loaded.catalogue)
    if unknown := sorted(set(without) - whole.pools.keys()):
        raise InvalidValue(f"There is no pool '{unknown[0]}'. There are: {', '.join(whole.pools)}.")
    provider = provider or _configured(loaded, clock)
    with TemporaryDirectory() as folder, _database(loaded, Path(folder)) as database:
        profiles = Observer(database, loaded.settings, provider, Hardware(loaded.catalogue)).current_profiles()
        with database.read() as connection:
            rows = batches.in_state(connection, sorted(BATCH_TRANSITIONS))
        asked = [row for row in rows if start <= row["created_at"] < start + timedelta(days=days) and _is_known(row)]
        fleet = msgspec.structs.replace(whole, pools={n: pool for n, pool in whole.pools.items() if n not in without})
        kept = {key: known for key, known in profiles.items() if key[1] in fleet.pools}
        arrivals = [arrival for row in asked if (arrival := _arrival(row, start, fleet)).pools]
        if not arrivals:
            raise InvalidValue(
                f"No batch that these pools could run, and that was answered, came in the {days} days from {start:%Y-%m-%d} on."
            )
        scene = Scene(fleet, kept, sorted(arrivals, key=lambda one: (one.at_s, one.batch_id)), days, 0)
        zones = list(dict.fromkeys(site.zone for site in whole.sites.values()))
        grid = Grid(provider, zones, start, min(days * 24 + AFTER_H, (clock.now() - start) // HOUR))
        yield History(scene, grid, _as_it_was(database, asked, whole, scene, grid))


def _configured(loaded: Loaded, clock: Clock) -> Provider:
    from batchsched.forecasts.archive import Archive

    settings = loaded.settings
    return open_forecasts(
        settings.forecast, loaded.base_dir, lambda: Archive(settings.archive_folder(), order=settings.forecast.order_for), clock
    ).provider


@contextmanager
def _database(loaded: Loaded, folder: Path) -> Generator[Database]:
    """A copy, where a server may have its own open."""
    server = loaded.settings.server
    where = server.database_url or copy_of(Path(server.data_dir) / "batchsched.db", folder / "batchsched.db")
    database = Database(where)
    try:
        yield database
    finally:
        database.close()


def _is_known(row: Mapping[str, Any]) -> bool:
    """Was it answered, so that its lengths are known?"""
    return bool(row["model"] and row["total"] and row["completed"])


def _arrival(row: Mapping[str, Any], start: datetime, fleet: Fleet) -> Arrival:
    options, answered = row["options"], row["completed"]
    sites, zones = (options.get(name) or () for name in ("sites", "zones"))
    able = [name for name in fleet.pools_for(row["model"], list(sites)) if not zones or fleet.zone_of(name) in zones]
    return Arrival(
        batch_id=row["id"],
        at_s=(row["created_at"] - start).total_seconds(),
        deadline_s=(row["deadline_at"] - start).total_seconds(),
        model=row["model"],
        requests=row["total"],
        pools=tuple(able),
        output_tokens=max(1.0, row["output_tokens"] / answered),
        slowness=1.0,
        input_tokens=max(1.0, row["input_tokens"] / answered),
    )


def _as_it_was(database: Database, asked: Collection[Mapping[str, Any]], whole: Fleet, scene: Scene, grid: Grid) -> Outcome:
    """By the ledger; of idle engines all that pools' meters told in those days."""
    found, names = Outcome(AS_IT_WAS, len(asked)), {row["id"]: row["id"] for row in asked}
    found.work = paid(database, msgspec.structs.replace(scene, fleet=whole), grid, names)
    for row in asked:
        ended = row["completed_at"]
        if ended is None:
            found.unfinished.append(row["id"])
            continue
        waited, late = ended - row["created_at"], ended - row["deadline_at"]
        found.done(row["id"], waited.total_seconds(), late.total_seconds(), grace_s=0.0)
    return found
