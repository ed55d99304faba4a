"""What came to an operator's own fleet, as a scene: the batches of the database, with the lengths and speeds that it measured.

Only batches whose time is over are taken: they were due, and ended, before the last hour of which it is known what came true. So
nothing that a policy puts off is ever put off beyond what is paid for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from batchsched.carbon.models import Hardware
from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, InvalidValue
from batchsched.fleet import Fleet, PoolWindow
from batchsched.forecasts import Provider
from batchsched.observe import Observer
from batchsched.openings import Standing
from batchsched.profiles.profile import Profile
from batchsched.queue import batches
from batchsched.queue.copying import copy_of
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.settings import Loaded
from batchsched.simulate.about import About, LeftOut
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.configured import configured, zones_of
from batchsched.simulate.grid import HOUR, Grid
from batchsched.simulate.heard import Heard
from batchsched.simulate.lived import Lived, ended_at, lived
from batchsched.simulate.outcome import Outcome
from batchsched.simulate.rolling import AFTER_H
from batchsched.simulate.scene import Arrival, Scene


class History(NamedTuple):
    """`was`: what it came to in life, by the ledger; `heard`: whose forecasts the policies saw, once they have run; `conditions`:
    under which to simulate it."""

    scene: Scene
    grid: Grid
    was: Outcome
    about: About
    heard: Heard
    conditions: Conditions


class _Chosen(NamedTuple):
    """Batches that can be simulated, each with how it comes."""

    rows: list[Row]
    arrivals: list[Arrival]
    left_out: LeftOut


def history(
    loaded: Loaded,
    start: datetime,
    days: int,
    clock: Clock,
    without: Collection[str] = (),
    provider: Provider | None = None,
    seed: int = 0,
) -> History:
    """Of the batches that came in these days, the first of which is the one of `start`.

    `without`: pools that are taken out of the fleet; `provider`: in place of the configured forecasts; `seed`: draws how long
    each chunk takes beside what was measured.

    Raises InvalidValue where there is nothing to simulate, ForecastUnavailable, DatabaseUnavailable, DamagedDatabase.
    """
    start, now = start.replace(hour=0, minute=0, second=0, microsecond=0), clock.now()
    whole = loaded.settings.fleet(loaded.catalogue)
    fleet = _less(whole, without)
    heard = Heard(provider or configured(loaded, clock))
    with TemporaryDirectory() as folder, _database(loaded, Path(folder)) as database:
        observer = Observer(database, loaded.settings, heard, Hardware(loaded.catalogue))
        with database.read() as connection:
            rows = batches.came(connection, start, start + timedelta(days=days))
            standing = observer.windows.read(connection)
        if not rows:
            raise InvalidValue(f"No batch came in the {days} days from {start:%Y-%m-%d %H:%M} UTC on.")
        profiles = observer.current_profiles()
        kept = {key: known for key, known in profiles.items() if key[1] in fleet.pools}
        zones, known_until = _known_grids(heard, whole, fleet, start, now)
        chosen = _chosen(rows, fleet, kept.keys(), start, known_until)
        scene = Scene(
            fleet,
            kept,
            chosen.arrivals,
            days,
            seed,
            windows=_windows(standing, fleet),
            network_kwh_per_gb=loaded.settings.carbon.network_kwh_per_gb,
            catalogue=loaded.catalogue,
        )
        grid = Grid(heard, zones, start, (_end(chosen.rows, known_until) - start) // HOUR, known_at=now)
        _listen(heard, grid)
        paid_for = _less(whole, [name for name in whole.pools if whole.zone_of(name) not in zones])
        everything = msgspec.structs.replace(scene, fleet=paid_for, profiles=profiles)
        known = lived(database, chosen.rows, everything, grid, _last_end(chosen.rows))
    took = [msgspec.structs.replace(one, slowness=known.slowness.get(one.batch_id, 1.0)) for one in scene.arrivals]
    scene = msgspec.structs.replace(scene, arrivals=took)
    about = _about(scene, grid, chosen, known, known_until, sorted(without))
    return History(scene, grid, known.outcome, about, heard, Conditions(at_once=True, attached=known.attached))


def _about(scene: Scene, grid: Grid, chosen: _Chosen, known: Lived, known_until: datetime, without: list[str]) -> About:
    fleet = scene.fleet
    return About(
        start=grid.start,
        end=grid.start + timedelta(days=scene.days),
        known_until=known_until,
        came=len(chosen.rows) + chosen.left_out.total,
        simulated=len(chosen.rows),
        left_out=chosen.left_out,
        cut_short=sum(row["completed"] < row["total"] for row in chosen.rows),
        pools=[f"{name} ({fleet.zone_of(name)})" for name in fleet.pools],
        without=without,
        assumed=_assumed(scene),
        filled_h=grid.filled_h,
        gone=known.gone,
        unmeasured_s=known.unmeasured_s,
        forgotten_kwh=known.forgotten_kwh,
        attached=known.attached,
    )


def _less(whole: Fleet, without: Collection[str]) -> Fleet:
    """A fleet without some of its pools. Raises InvalidValue."""
    if not whole.pools:
        raise InvalidValue("The configuration declares no pool.", hint="Name the one that the server has with --config.")
    if unknown := sorted(set(without) - whole.pools.keys()):
        raise InvalidValue(f"There is no pool '{unknown[0]}'. There are: {', '.join(whole.pools)}.")
    left = {name: pool for name, pool in whole.pools.items() if name not in without}
    if not left:
        raise InvalidValue("No pool is left; take fewer away.")
    return msgspec.structs.replace(whole, pools=left)


def _windows(standing: Mapping[str, Standing], fleet: Fleet) -> dict[str, PoolWindow]:
    """Those with a name, of configuration and database, as they are declared now; a pool's own comes with the pool."""
    own = {f"pools.{name}.window" for name in fleet.pools}
    return {name: one.window for name, one in standing.items() if name not in own and one.window.pool in fleet.pools}


@contextmanager
def _database(loaded: Loaded, folder: Path) -> Generator[Database]:
    """A copy of a file, which a server may have open; what is no file is only read."""
    server = loaded.settings.server
    if server.database_url:
        database = Database(server.database_url, reading=True)
    else:
        database = Database(copy_of(Path(server.data_dir) / "batchsched.db", folder / "batchsched.db"))
    try:
        yield database
    finally:
        database.close()


def _known_grids(provider: Provider, whole: Fleet, left: Fleet, start: datetime, now: datetime) -> tuple[list[str], datetime]:
    """The zones of what is left of a fleet, and up to when it is known what came true there; and others of the whole, where it is
    known as well: what pools that are taken away emitted. Raises ForecastUnavailable."""
    zones = zones_of(left)
    known_until = _known_until(provider, zones, start, now)
    for zone in zones_of(whole):
        measured = [one.end for one in provider.realised(zone, start, now, now)] if zone not in zones else []
        zones += [zone] if max(measured, default=start) >= known_until else []
    return zones, known_until


def _known_until(provider: Provider, zones: Sequence[str], start: datetime, now: datetime) -> datetime:
    """The last whole hour up to which it is known what came true in all zones. Raises ForecastUnavailable."""
    ends: list[datetime] = []
    for zone in zones:
        measured = [one.end for one in provider.realised(zone, start, now, now)]
        if max(measured, default=start) < start + HOUR:
            raise ForecastUnavailable(
                f"Nothing is known of what came true in zone {zone} from {start:%Y-%m-%d %H:%M} UTC on; work is paid by that.",
                hint="It is kept where [forecast.sources] or a file with measurements is configured, and may be brought in by "
                "`batchsched forecast import` or `forecast backfill`. Typical days (climatology) never come true.",
            )
        ends.append(max(measured))
    return start + (min(*ends, now) - start) // HOUR * HOUR


def _chosen(
    rows: Sequence[Row], fleet: Fleet, able: Collection[tuple[str, str]], start: datetime, known_until: datetime
) -> _Chosen:
    """Which can be simulated. `able`: models with the pools that may run them. Raises InvalidValue where none can."""
    found: list[tuple[Arrival, Row]] = []
    left = {"unanswered": 0, "too_late": 0, "no_pool": 0}
    for row in rows:
        ended = ended_at(row)
        if ended is None or max(ended, row["deadline_at"]) > known_until:
            left["too_late"] += 1
        elif not (row["model"] and row["completed"]):
            left["unanswered"] += 1
        elif not (arrival := _arrival(row, start, fleet, able)).pools:
            left["no_pool"] += 1
        else:
            found.append((arrival, row))
    left_out = LeftOut(**left)
    if not found:
        raise InvalidValue(
            f"None of the {len(rows)} batches of these days can be simulated: {left_out.words(known_until)}.",
            hint="Choose earlier days with --start." if left_out.too_late else None,
        )
    found.sort(key=lambda one: (one[0].at_s, one[0].batch_id))
    return _Chosen([row for _, row in found], _expected([arrival for arrival, _ in found]), left_out)


def _arrival(row: Mapping[str, Any], start: datetime, fleet: Fleet, able: Collection[tuple[str, str]]) -> Arrival:
    """A batch as it came, with the work that was answered: what was not, nobody knows the length of."""
    options, answered = row["options"], row["completed"]
    sites, zones = (options.get(name) or () for name in ("sites", "zones"))
    here = [name for name in fleet.pools_for(row["model"], list(sites)) if not zones or fleet.zone_of(name) in zones]
    return Arrival(
        batch_id=row["id"],
        at_s=(row["created_at"] - start).total_seconds(),
        deadline_s=(row["deadline_at"] - start).total_seconds(),
        model=row["model"],
        requests=answered,
        pools=tuple(name for name in here if (row["model"], name) in able),
        output_tokens=max(1.0, row["output_tokens"] / answered),
        slowness=1.0,
        input_tokens=max(1.0, row["input_tokens"] / answered),
    )


def _expected(arrivals: list[Arrival]) -> list[Arrival]:
    """With what was to be expected of each: the mean of the answers of its model in these days."""
    answered, requests = Counter[str](), Counter[str]()
    for one in arrivals:
        answered[one.model] += round(one.output_tokens * one.requests)
        requests[one.model] += one.requests
    return [msgspec.structs.replace(one, expected_output_tokens=answered[one.model] / requests[one.model]) for one in arrivals]


def _last_end(rows: Sequence[Row]) -> datetime:
    """The end of the hour in which the last of them ended."""
    last = max(ended for row in rows if (ended := ended_at(row)))
    return last.replace(minute=0, second=0, microsecond=0) + HOUR


def _end(rows: Sequence[Row], known_until: datetime) -> datetime:
    """When a simulation ends at the latest: some days after the last of them was due or done, as far as the grid is known."""
    last: datetime = max([_last_end(rows), *(row["deadline_at"] for row in rows)])
    return min(known_until, last.replace(minute=0, second=0, microsecond=0) + (AFTER_H + 1) * HOUR)


def _listen(heard: Heard, grid: Grid) -> None:
    """Ask for a forecast a day. Raises ForecastUnavailable for a zone of which nobody ever had one: policies would be blind."""
    for hour in range(0, grid.hours, 24):
        grid.issued(hour)
    if silent := heard.silent():
        raise ForecastUnavailable(
            f"Of zone {silent[0]} it is known what came true, but no forecast of those days was kept.",
            hint="Choose days in which a server of this configuration kept them; what is brought in later was not known then.",
        )


def _assumed(scene: Scene) -> list[str]:
    asked = {(one.model, name) for one in scene.arrivals for name in one.pools}
    by_prior: list[Profile] = [scene.profiles[key] for key in sorted(asked) if scene.profiles[key].source == "prior"]
    return [f"{one.model} on {one.pool}" for one in by_prior]
