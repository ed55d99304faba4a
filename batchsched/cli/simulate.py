"""`batchsched simulate`: what ways to decide would have saved, on a virtual clock over real or drawn grids; needs no server."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import grams, json_option, need, print_json, print_table, say
from batchsched.errors import InvalidValue

if TYPE_CHECKING:
    from batchsched.simulate import Outcome

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


@click.command()
@click.option("--days", type=click.IntRange(1, 150), default=3, show_default=True, help="For how long batches come.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the batches, and the weather where there is no data.",
)
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2021-10-04", show_default=True, help="The first day, UTC.")
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
@json_option
def simulate(
    days: int, seed: int, start: datetime, zones: str, names: tuple[str, ...], data: Path | None, load: float, as_json: bool
) -> None:
    """Show what policies would have emitted for the same batches: decided by forecasts, paid by what came true."""
    need("server")
    from batchsched.simulate import POLICIES, Grid, draw_scene
    from batchsched.simulate import simulate as run
    from batchsched.simulate.data import opened
    from batchsched.simulate.rolling import hours_of

    folder = data or (Path(os.environ["BATCHSCHED_DATA"]) if os.environ.get("BATCHSCHED_DATA") else None)
    named = [name.strip() for name in zones.split(",") if name.strip()]
    if not named:
        raise InvalidValue("--zones names no zone; give at least one, such as DE.")
    scene, since = draw_scene(named, days, seed, load=load), start.replace(tzinfo=UTC)
    found: dict[str, Outcome] = {}
    with opened(folder, named, since, hours_of(scene), seed) as provider, _Progress() as progress:
        grid = Grid(provider, named, since, hours_of(scene))
        for name in dict.fromkeys([RUN_NOW, *(names or DEFAULT)]):
            found[name] = run(scene, grid, POLICIES[name], partial(progress, name))
        source = provider.name
    if as_json:
        about = {
            "days": days,
            "seed": seed,
            "start": since,
            "zones": named,
            "load": load,
            "truth": source,
            "drawn": folder is None,
        }
        print_json({**about, "policies": [{**one.summary(), **_beside(found, one)} for one in found.values()]})
        return
    say(f"{len(scene.arrivals)} batches in {days} days from {since:%Y-%m-%d} on; pools in {', '.join(named)}.")
    say(f"Truth and forecasts: {source}{', from the seed' if folder is None else ''}.")
    print_table(
        ("policy", "CO2e", "saved", "captured", "kWh", "missed", "wait", "starts", "moved"),
        [_row(found, one) for one in found.values()],
    )


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
