"""`batchsched simulate`: what ways to decide would have saved, on a virtual clock over real or drawn grids; needs no server."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from batchsched.cli.common import config_option, json_option, need, print_json, print_table, say
from batchsched.cli.manners import quiet
from batchsched.cli.named_files import InFile
from batchsched.cli.simulate_compare import compare
from batchsched.cli.simulate_table import PERFECT, RUN_NOW, beside, given_up_by, row_of, undone, used
from batchsched.cli.simulate_worlds import Batches, World, drawn, on_own_grids, past
from batchsched.errors import ServerError

if TYPE_CHECKING:
    from batchsched.simulate import Outcome

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
SCENARIOS = (
    "regions",
    "site",
    "shared 25",
    "shared 55",
    "everything",
    "lengths",
    "services",
    "wrong profiles",
    "spike",
    "lost pool",
    "slow links",
    "cut link",
    "hanging feed",
    "broken feed",
    "embodied low",
    "embodied high",
    "near zero",
)
"""simulate.scenarios.NAMED, likewise."""
FIRST_DAY = datetime(2021, 10, 4, tzinfo=UTC)


ZONES = "PJM,CISO,ISNE,DE,NL"
NOT_OF_A_PAST = ("zones", "data", "own_grids", "load", "scenario")
"""Options of drawn batches alone."""


@click.group(invoke_without_command=True, subcommand_metavar="[compare A B]")
@click.option("--days", type=click.IntRange(1, 150), default=3, show_default=True, help="For how long batches come.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the batches, how long their work really takes, and the weather where there is no data.",
)
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The first day, UTC [default: 2021-10-04; with --from-archive so many days ago, with --own-grids five more].",
)
@click.option(
    "--zones",
    default=ZONES,
    show_default=True,
    help="Grid zones, separated by commas; home first. With --own-grids by default those of the configured sites.",
)
@click.option(
    "--policy",
    "names",
    type=click.Choice(CHOICES),
    multiple=True,
    help=f"Which to try; may be repeated [default: {'; '.join(DEFAULT)}].",
)
@click.option(
    "--data",
    type=InFile("stdin.csv", folders=True),
    help="Folder with forecasts as they were issued, or one file of them in any layout of `forecast import` [default: "
    "$BATCHSCHED_DATA; without it the weather is drawn].",
)
@click.option(
    "--own-grids",
    is_flag=True,
    help="Drawn batches on the grids of the configured server: by the forecasts that its archive kept, as they were known.",
)
@click.option(
    "--load",
    type=click.FloatRange(0.01, 1.0),
    default=0.3,
    show_default=True,
    help="Share of the fleet's time that the work takes.",
)
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default=SCENARIOS[0],
    show_default=True,
    help="What happens, drawn from the seed (docs/simulate.md tells each).",
)
@click.option(
    "--from-archive",
    is_flag=True,
    help="Simulate the batches, the fleet and the forecasts of the configured server instead of drawn ones; its database is "
    "only read.",
)
@click.option("--without", multiple=True, metavar="POOL", help="With --from-archive: take this pool away; may be repeated.")
@click.option(
    "--quick", is_flag=True, help="The planner alone, hour by hour, instead of the whole server: a tenth of the time, about."
)
@click.option(
    "--risk",
    type=click.FloatRange(0.0, 1.0),
    help="planner.risk of our own planner's policies [default: 0; with --from-archive as configured].",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for all decisions, as Parquet.")
@click.option(
    "--picture",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for two pictures: what policies saved, and a day of it (SVG).",
)
@config_option
@json_option
@click.pass_context
def simulate(
    context: click.Context,
    days: int,
    seed: int,
    start: datetime | None,
    zones: str,
    names: tuple[str, ...],
    data: Path | None,
    own_grids: bool,
    load: float,
    scenario: str,
    from_archive: bool,
    without: tuple[str, ...],
    quick: bool,
    risk: float | None,
    out: Path | None,
    picture: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show what policies would have emitted for the same batches: decided by forecasts, paid by what came true."""
    if context.invoked_subcommand is not None:
        return
    need("server")
    _fitting(context, from_archive=from_archive, quick=quick, out=out, without=without)
    asked = list(dict.fromkeys([RUN_NOW, *(names or DEFAULT)]))
    batches = Batches(days, seed, load, scenario)
    if from_archive:
        world = past(days, start, config, without, seed)
    elif own_grids:
        world = on_own_grids(batches, start, zones if _given(context, "zones") else None, config)
    else:
        world = drawn(batches, start or FIRST_DAY, zones, data)
    with world as made, _Progress() as progress:
        found = {one.policy: one for one in made.before}
        for name in asked:
            found[name] = _run(made, name, risk, out, progress, quick=quick)
        facts, remarks = made.told()
        facts["risk"] = made.ours(risk).weight
        if picture is not None:
            _draw(made, found, picture, quick=quick)
    remarks += [undone(one, made.grid) for one in found.values() if one.unfinished]
    remarks += [given_up_by(one) for one in found.values() if one.given_up]
    if as_json:
        before = {one.policy for one in made.before}
        rows = [
            {**one.summary(), **used(made.scene.fleet, one), "simulated": one.policy not in before, **beside(found, one)}
            for one in found.values()
        ]
        print_json({**facts, "remarks": remarks, "policies": rows})
        return
    for remark in remarks:
        say(remark)
    print_table(
        ("policy", "CO2e", "saved", "captured", "kWh", "missed", "wait", "starts", "moved"),
        [row_of(found, one) for one in found.values()],
    )


simulate.add_command(compare)


def _fitting(context: click.Context, *, from_archive: bool, quick: bool, out: Path | None, without: tuple[str, ...]) -> None:
    """Raises UsageError for options that do not go together."""
    if quick and (from_archive or out):
        raise click.UsageError("--quick knows neither --from-archive nor --out, which take the whole server.")
    if without and not from_archive:
        raise click.UsageError("--without takes pools of the configured fleet away; it needs --from-archive.")
    given = [name for name in NOT_OF_A_PAST if _given(context, name)]
    if str(context.params["scenario"]).startswith("shared") and "load" in given:
        raise click.UsageError("--load is not for a shared scenario, whose name says it: the rest is that of online users.")
    if from_archive and given:
        option = given[0].replace("_", "-")
        raise click.UsageError(f"--{option} is for drawn batches; --from-archive takes what the configured server has.")
    if {"own_grids", "data"} <= {*given}:
        raise click.UsageError("--own-grids takes what the configured server knows of its grids; leave --data out.")


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _run(made: World, name: str, risk: float | None, out: Path | None, progress: _Progress, *, quick: bool) -> Outcome:
    import msgspec

    from batchsched.simulate import POLICIES, backtest
    from batchsched.simulate import simulate as by_planner_alone
    from batchsched.simulate.ceiling import Impossible
    from batchsched.simulate.conditions import USUAL

    policy, conditions = POLICIES[name], made.conditions or USUAL
    if name.startswith(("greedy", "planner")):
        policy = msgspec.structs.replace(policy, risk=made.ours(risk))
        if made.limits is not None:
            policy = msgspec.structs.replace(policy, churn=made.limits.churn, min_run_s=made.limits.min_run_s)
    try:
        if quick:
            return by_planner_alone(made.scene, made.grid, policy, partial(progress, name), conditions=conditions)
        outcome, records = backtest(made.scene, made.grid, policy, conditions, partial(progress, name))
    except Impossible as fault:
        raise ServerError(str(fault), hint="Please report it, with the command and its options.") from None
    if out is not None:
        about = {**made.told()[0], "risk": policy.risk.weight, **outcome.summary()}
        records.write(out / name.replace(", ", "-").replace(" ", "-"), outcome.work, about)
    return outcome


def _draw(made: World, found: dict[str, Outcome], folder: Path, *, quick: bool) -> None:
    """All policies; and of the second day, the first where there is no other, what was run at once and what by a plan of ours."""
    from batchsched.simulate.pictures import DAY_H, compared, day, points_of, write

    ours = next((name for name in ("planner", "greedy", *found) if name in found and name != RUN_NOW), RUN_NOW)
    by = "the planner alone" if quick else "the whole server"
    source = f"{made.grid.provider.name}, {made.scene.days} days from {made.grid.start:%Y-%m-%d} on, simulated by {by}"
    write(folder / "policies.svg", compared(source, points_of(list(found.values()), RUN_NOW, ours)))
    since_h = DAY_H if made.scene.days > 1 else 0
    write(folder / "day.svg", day(source, made.scene, made.grid, found[RUN_NOW], found[ours], since_h))


class _Progress:
    """One live line on a terminal; elsewhere a line a policy."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("reading forecasts")
        self._live = self._console.is_terminal and not quiet()
        self._name = ""

    def __enter__(self) -> _Progress:
        if self._live:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, name: str, share: float) -> None:
        if self._live:
            self._status.update(f"{name}: {share:.0%}")
        elif name != self._name:
            say(f"simulating: {name}")
        self._name = name
