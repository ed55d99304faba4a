"""What `batchsched simulate` simulates: drawn batches on grids with data or without, or an operator's own past."""

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
    from batchsched.planner.problem import Risk
    from batchsched.planning import Planner as Limits
    from batchsched.simulate import Conditions, Grid, Outcome, Scene


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


@contextmanager
def drawn(days: int, seed: int, start: datetime, zones: str, data: Path | None, load: float, name: str) -> Generator[World]:
    from batchsched.simulate.data import opened
    from batchsched.simulate.rolling import hours_of
    from batchsched.simulate.scenarios import NAMED, Asked

    folder = data or (Path(os.environ["BATCHSCHED_DATA"]) if os.environ.get("BATCHSCHED_DATA") else None)
    asked = [zone.strip() for zone in zones.split(",") if zone.strip()]
    if not asked:
        raise InvalidValue("--zones names no zone; give at least one, such as DE.")
    since = start.replace(tzinfo=UTC)
    scenario = NAMED[name](Asked(asked, since, days, seed, load, folder))
    scene, named = scenario.scene, list(scenario.zones)
    facts: dict[str, Any] = {"scenario": name, "days": days, "seed": seed, "zones": named, "load": scenario.load, "start": since}
    facts["drawn"] = folder is None
    with opened(folder, named, since, hours_of(scene), seed) as provider:
        source = provider.name
        remarks = [
            f"{len(scene.arrivals)} drawn batches in {days} days from {since:%Y-%m-%d} on; pools in {', '.join(named)}.",
            f"Scenario: {scenario.name}.",
            f"Truth and forecasts: {source}{', from the seed' if folder is None else ''}.",
        ]
        yield World(
            scene,
            scenario.grid(provider),
            [],
            lambda: ({**facts, "batches": len(scene.arrivals), "truth": source}, list(remarks)),
            conditions=scenario.conditions,
        )


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
