"""`batchsched simulate`: what ways to decide would have saved, on a virtual clock over real or drawn grids; needs no server."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from batchsched.cli.common import config_option, grams, json_option, load_checked, need, print_json, print_table, say
from batchsched.errors import InvalidValue

if TYPE_CHECKING:
    from batchsched.simulate import Grid, Outcome, Scene

RUN_NOW = "run now"
PERFECT = ("planner, perfect foresight", "greedy, perfect foresight")
DEFAULT = (RUN_NOW, "EDF, cheapest slot", "lowest window", "carbon-time", "greedy", PERFECT[1])
CHOICES = (
    RUN_NOW,
    "FIFO",
    "EDF",
    "EDF, cheapest slot",
    "lowest slot",
    "lowest slots",
    "lowest window",
    "threshold",
    "carbon-time",
    "marginal allocation",
    "cleanest place",
    "routing LP",
    "GreenLLM",
    "fastest GPUs",
    "least energy",
    "night window",
    "greedy",
    PERFECT[1],
    "planner",
    PERFECT[0],
)
"""simulate.POLICIES, which a help text does not wait for."""
FIRST_DAY = datetime(2021, 10, 4, tzinfo=UTC)


@click.command()
@click.option("--days", type=click.IntRange(1, 150), default=3, show_default=True, help="For how long batches come.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the batches, and the weather where there is no data.",
)
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The first day, UTC [default: 2021-10-04; with --from-archive so many days ago].",
)
@click.option("--zones", default="PJM,CISO,ISNE,DE,NL", show_default=True, help="Grid zones, separated by commas; home first.")
@click.option(
    "--policy",
    "names",
    type=click.Choice(CHOICES),
    multiple=True,
    help=f"Which to try; may be repeated [default: {'; '.join(DEFAULT)}].",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with forecasts as they were issued [default: $BATCHSCHED_DATA; without it the weather is drawn].",
)
@click.option(
    "--load",
    type=click.FloatRange(0.01, 1.0),
    default=0.3,
    show_default=True,
    help="Share of the fleet's time that the work takes.",
)
@click.option(
    "--from-archive",
    is_flag=True,
    help="Simulate the batches, the fleet and the forecasts of the configured server instead of drawn ones.",
)
@click.option("--without", multiple=True, metavar="POOL", help="With --from-archive: take this pool away; may be repeated.")
@click.option(
    "--quick", is_flag=True, help="The planner alone, hour by hour, instead of the whole server: a tenth of the time, about."
)
@click.option("--risk", type=click.FloatRange(0.0, 1.0), default=0.0, help="planner.risk of our own planner's policies.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for all decisions, as Parquet.")
@config_option
@json_option
def simulate(
    days: int,
    seed: int,
    start: datetime | None,
    zones: str,
    names: tuple[str, ...],
    data: Path | None,
    load: float,
    from_archive: bool,
    without: tuple[str, ...],
    quick: bool,
    risk: float,
    out: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show what policies would have emitted for the same batches: decided by forecasts, paid by what came true."""
    need("server")
    asked = list(dict.fromkeys([RUN_NOW, *(names or DEFAULT)]))
    if quick and (from_archive or out):
        raise InvalidValue("--quick knows neither --from-archive nor --out, which take the whole server.")
    drawn = partial(_drawn, days, seed, start or FIRST_DAY, zones, data, load)
    with _past(days, start, config, without) if from_archive else drawn() as made, _Progress() as progress:
        found = {one.policy: one for one in made.before}
        for name in asked:
            found[name] = _run(made, name, risk, out, progress, quick=quick)
        source = made.grid.provider.name
    if as_json:
        about = {**made.about, "start": made.grid.start, "truth": source, "risk": risk}
        print_json({**about, "policies": [{**one.summary(), **_beside(found, one)} for one in found.values()]})
        return
    pools = ", ".join(made.grid.zones)
    say(f"{len(made.scene.arrivals)} batches in {days} days from {made.grid.start:%Y-%m-%d} on; pools in {pools}.")
    say(f"Truth and forecasts: {source}{', from the seed' if made.about.get('drawn') else ''}.")
    print_table(
        ("policy", "CO2e", "saved", "captured", "kWh", "missed", "wait", "starts", "moved"),
        [_row(found, one) for one in found.values()],
    )


class _World(NamedTuple):
    """What is simulated. `before`: outcomes that are known already; `about`: what JSON says of it."""

    scene: Scene
    grid: Grid
    before: list[Outcome]
    about: dict[str, object]


@contextmanager
def _drawn(days: int, seed: int, start: datetime, zones: str, data: Path | None, load: float) -> Generator[_World]:
    from batchsched.simulate import Grid, draw_scene
    from batchsched.simulate.data import opened
    from batchsched.simulate.rolling import hours_of

    folder = data or (Path(os.environ["BATCHSCHED_DATA"]) if os.environ.get("BATCHSCHED_DATA") else None)
    named = [name.strip() for name in zones.split(",") if name.strip()]
    if not named:
        raise InvalidValue("--zones names no zone; give at least one, such as DE.")
    scene, since = draw_scene(named, days, seed, load=load), start.replace(tzinfo=UTC)
    about: dict[str, object] = {"days": days, "seed": seed, "zones": named, "load": load, "drawn": folder is None}
    with opened(folder, named, since, hours_of(scene), seed) as provider:
        yield _World(scene, Grid(provider, named, since, hours_of(scene)), [], about)


@contextmanager
def _past(days: int, start: datetime | None, config: Path | None, without: tuple[str, ...]) -> Generator[_World]:
    from batchsched.clock import SystemClock
    from batchsched.simulate.history import history

    clock = SystemClock()
    since = start.replace(tzinfo=UTC) if start else clock.now() - timedelta(days=days)
    with history(load_checked(config), since, days, clock, without) as past:
        about: dict[str, object] = {"days": days, "zones": list(past.grid.zones), "without": list(without), "drawn": False}
        yield _World(past.scene, past.grid, [past.was], about)


def _run(made: _World, name: str, risk: float, out: Path | None, progress: _Progress, *, quick: bool) -> Outcome:
    import msgspec

    from batchsched.planner.problem import Risk
    from batchsched.simulate import POLICIES, backtest
    from batchsched.simulate import simulate as by_planner_alone

    policy = POLICIES[name]
    if name.startswith(("greedy", "planner")):
        policy = msgspec.structs.replace(policy, risk=Risk(risk))
    if quick:
        return by_planner_alone(made.scene, made.grid, policy, partial(progress, name))
    outcome, records = backtest(made.scene, made.grid, policy, on_progress=partial(progress, name))
    if out is not None:
        records.write(out / name.replace(", ", "-").replace(" ", "-"), outcome.work)
    return outcome


def _beside(found: dict[str, Outcome], one: Outcome) -> dict[str, float | None]:
    """What was saved against running now, and which share that is of what perfect foresight saves."""
    from batchsched.simulate import captured

    now, best = found[RUN_NOW], next((found[name] for name in PERFECT if name in found), None)
    share = captured(now, one, best) if best else math.nan
    return {
        "saved": round(1 - one.grams / now.grams, 4) if now.grams else None,
        "captured": round(share, 4) if math.isfinite(share) else None,
    }


def _row(found: dict[str, Outcome], one: Outcome) -> list[str]:
    beside, row = _beside(found, one), one.summary()
    saved, captured = (f"{share:.1%}" if share is not None else "" for share in (beside["saved"], beside["captured"]))
    return [
        one.policy,
        grams(one.grams),
        saved,
        captured,
        f"{one.energy_kwh:,.0f}",
        f"{row['missed']} of {one.batches}",
        f"{row['wait_h']} h",
        str(one.engine_starts),
        f"{one.churn:.0%}",
    ]


class _Progress:
    """One live line on a terminal; elsewhere a line a policy."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("reading forecasts")
        self._name = ""

    def __enter__(self) -> _Progress:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, name: str, share: float) -> None:
        if self._console.is_terminal:
            self._status.update(f"{name}: {share:.0%}")
        elif name != self._name:
            click.echo(f"simulating: {name}", err=True)
        self._name = name
