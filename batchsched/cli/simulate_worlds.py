"""What `batchsched simulate` simulates: drawn batches on grids with data or without or on an operator's own, or his own past."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchsched.cli.common import load_checked
from batchsched.errors import InvalidValue

if TYPE_CHECKING:
    from batchsched.forecasts import Provider
    from batchsched.planner.problem import Risk
    from batchsched.planning import Planner as Limits
    from batchsched.simulate import Conditions, Grid, Outcome, Scene
    from batchsched.simulate.scenarios import Scenario


class World(NamedTuple):
    """What is simulated. `before`: outcomes that are known already; `told`: what it rests on, as figures and in sentences, once
    policies have run."""

    scene: Scene
    grid: Grid
    before: list[Outcome]
    told: Callable[[], tuple[dict[str, Any], list[str]]]
    conditions: Conditions | None = None
    limits: Limits | None = None
    """As an operator has set our planner."""

    def ours(self, risk: float | None) -> Risk:
        """What our planner weighs, `risk` in place of what is set."""
        from batchsched.planner.problem import Risk

        if self.limits is None:
            return Risk(risk or 0.0)
        return Risk(self.limits.risk if risk is None else risk, self.limits.risk_measure, self.limits.risk_level)


class Batches(NamedTuple):
    """What is drawn, where no past is simulated: for how many days, from which seed, which share of the fleet's time, under which
    scenario."""

    days: int
    seed: int
    load: float
    scenario: str


@contextmanager
def drawn(batches: Batches, start: datetime, zones: str, data: Path | None) -> Generator[World]:
    from batchsched.simulate.data import opened
    from batchsched.simulate.rolling import hours_of

    given = data or _shared()
    since, asked = start.replace(tzinfo=UTC), _zones(zones)
    scenario = _scenario(batches, since, asked, given)
    with opened(given, list(scenario.zones), since, hours_of(scenario.scene), batches.seed) as provider:
        yield _world(batches, scenario, provider, drawn=given is None)


@contextmanager
def on_own_grids(batches: Batches, start: datetime | None, zones: str | None, config: Path | None) -> Generator[World]:
    from batchsched.clock import SystemClock
    from batchsched.simulate.about import whose
    from batchsched.simulate.configured import configured, zones_of
    from batchsched.simulate.heard import Heard
    from batchsched.simulate.rolling import AFTER_H

    loaded, clock = load_checked(config), SystemClock()
    asked = _zones(zones) if zones else zones_of(loaded.settings.fleet(loaded.catalogue))
    if not asked:
        raise InvalidValue("The configuration has no site with a pool; say with --zones which grids are meant.")
    latest = clock.now() - timedelta(days=batches.days, hours=AFTER_H)
    since = (start or latest).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC)
    heard = Heard(configured(loaded, clock))
    world = _world(batches, _scenario(batches, since, asked, None), heard, clock.now(), drawn=False)

    def told() -> tuple[dict[str, Any], list[str]]:
        shares = heard.shares()
        facts, remarks = world.told()
        return {**facts, "forecasts": shares}, [*remarks, whose(shares)]

    yield world._replace(told=told)


def _zones(zones: str) -> list[str]:
    asked = [zone.strip() for zone in zones.split(",") if zone.strip()]
    if not asked:
        raise InvalidValue("--zones names no zone; give at least one, such as DE.")
    return asked


def _scenario(batches: Batches, since: datetime, zones: list[str], data: Path | None) -> Scenario:
    """Online load is from that folder, else from the one that the environment names, where there is one."""
    from batchsched.simulate.scenarios import NAMED, Asked

    folder = data if data is not None and data.is_dir() else _shared()
    return NAMED[batches.scenario](Asked(zones, since, batches.days, batches.seed, batches.load, folder))


def _shared() -> Path | None:
    return Path(os.environ["BATCHSCHED_DATA"]) if os.environ.get("BATCHSCHED_DATA") else None


def _world(batches: Batches, scenario: Scenario, provider: Provider, known_at: datetime | None = None, *, drawn: bool) -> World:
    scene, zones, since, source = scenario.scene, list(scenario.zones), scenario.start, provider.name
    grid = scenario.grid(provider, known_at)
    facts: dict[str, Any] = {
        "scenario": batches.scenario,
        "days": batches.days,
        "seed": batches.seed,
        "zones": zones,
        "load": scenario.load,
        "start": since,
        "drawn": drawn,
        "batches": len(scene.arrivals),
        "truth": source,
    }
    remarks = [
        f"{len(scene.arrivals)} drawn batches in {batches.days} days from {since:%Y-%m-%d} on; pools in {', '.join(zones)}.",
        f"Scenario: {scenario.name}.",
        f"Truth and forecasts: {source}{', from the seed' if drawn else ''}.",
    ]
    return World(scene, grid, [], lambda: (dict(facts), list(remarks)), conditions=scenario.conditions)


@contextmanager
def past(days: int, start: datetime | None, config: Path | None, without: tuple[str, ...], seed: int) -> Generator[World]:
    import msgspec

    from batchsched.clock import SystemClock
    from batchsched.simulate.about import whose
    from batchsched.simulate.history import history

    loaded, clock = load_checked(config), SystemClock()
    since = start.replace(tzinfo=UTC) if start else clock.now() - timedelta(days=days)
    lived = history(loaded, since, days, clock, without, seed=seed)

    def told() -> tuple[dict[str, Any], list[str]]:
        shares = lived.heard.shares()
        facts = {"days": days, "seed": seed, "zones": list(lived.grid.zones), "drawn": False, "truth": lived.grid.provider.name}
        return {**facts, **msgspec.to_builtins(lived.about), "forecasts": shares}, [*lived.about.remarks(), whose(shares)]

    yield World(lived.scene, lived.grid, [lived.was], told, lived.conditions, loaded.settings.planner)
