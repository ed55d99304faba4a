"""`batchsched profile`: how fast and at what power each pool runs each model, as far as that is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from batchsched.carbon.operational import operational_g
from batchsched.cli.carbon_options import picture_option
from batchsched.cli.common import Connect, Number, json_option, need, plain, print_json, print_table, say, server_options, when
from batchsched.cli.printed import Beside, Compared, Shown
from batchsched.cli.profile_choice import AtRates, choices, intensity_now, show_choices
from batchsched.cli.profile_modes import picture as show_picture
from batchsched.cli.profile_modes import printed, rows
from batchsched.cli.profile_modes import show as show_rows
from batchsched.cli.profile_run import run
from batchsched.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchsched.client.profiles import PoolProfile, Profiles


@click.group()
def profile() -> None:
    """How fast and at what power each pool runs each model."""


profile.add_command(run)


@profile.command()
@click.argument("model", required=False)
@click.option("--pool", metavar="NAME", help="Only this pool.")
@json_option
@server_options
def show(model: str | None, pool: str | None, as_json: bool, connect: Connect) -> None:
    """Show what is known of each pool and model: rates, power, joules a token, how sure that is, and what it stands on.

    Rates are of one replica at full batch. The times that they give are right within the factor shown, two times in three.
    """
    with connect() as client:
        found = client.profiles()
    chosen = _chosen(found, model, pool)
    lengths = [one for one in found.answers if model in {None, one.model}]
    if as_json:
        print_json(Shown(tuple(map(plain, chosen)), tuple(map(plain, lengths))))
        return
    print_table(
        ("model", "pool", "GPU", "in tok/s", "out tok/s", "W in", "W out", "J/tok in", "J/tok out", "within", "source", "seen"),
        [
            (
                one.model,
                one.pool,
                one.gpu,
                f"{one.input_tokens_per_s:,.0f}",
                f"{one.output_tokens_per_s:,.0f}",
                f"{one.input_power_w:.0f}",
                f"{one.output_power_w:.0f}",
                f"{one.j_per_input_token:.3g}",
                f"{one.j_per_output_token:.3g}",
                f"x{math.exp(one.sigma):.2f}",
                one.source,
                str(one.observations),
            )
            for one in chosen
        ],
    )
    click.echo("")
    print_table(
        ("model", "endpoint", "mean answer", "P50", "P90", "P99", "within", "answers seen", "prompt bytes/token"),
        [
            (
                one.model,
                one.endpoint,
                f"{one.mean_tokens:.0f} tokens",
                f"{one.p50_tokens:.0f}",
                f"{one.p90_tokens:.0f}",
                f"{one.p99_tokens:.0f}",
                f"x{math.exp(one.sigma):.2f}",
                f"{one.answers:.0f}",
                f"{one.bytes_per_token:.2f}",
            )
            for one in lengths
        ],
    )
    _show_ways(chosen)
    _say_drifts(chosen)


@profile.command()
@click.argument("model")
@click.option("--input-tokens", type=click.IntRange(0), help="Of one request [default: 500].")
@click.option("--output-tokens", type=click.IntRange(0), help="Of one request [default: what answers are expected to be].")
@click.option(
    "--at-rates",
    is_flag=True,
    help="Instead, for each load measured at a rate: the pool that keeps its latencies with the least carbon.",
)
@click.option("--also", metavar="MODEL", multiple=True, help="With --at-rates: another model that would do.")
@click.option(
    "--modes", is_flag=True, help="Instead, each way to serve it that was measured, load by load, and whether it saved carbon."
)
@click.option("--lifetime-years", type=Number(0, min_open=True), default=5.0, show_default=True, help="With --modes: of a GPU.")
@picture_option
@json_option
@server_options
def compare(
    model: str,
    input_tokens: int | None,
    output_tokens: int | None,
    at_rates: bool,
    also: tuple[str, ...],
    modes: bool,
    lifetime_years: float,
    plot: Path | None,
    as_json: bool,
    connect: Connect,
) -> None:
    """Set the pools that may serve a model, in each way, side by side: seconds, joules and grams of 1,000 requests.

    Grams are of running it now, at each site's grid and PUE; embodied carbon is not among them. The best comes first.
    """
    if also and not at_rates:
        raise click.UsageError("--also goes with --at-rates.")
    if (modes and at_rates) or (plot and not modes):
        raise click.UsageError("--modes goes without --at-rates, and --plot with --modes only.")
    if modes:
        need("server")
        with connect() as client:
            told = rows(client, model, lifetime_years)
        if as_json and plot:
            show_picture(told, plot)
        print_json(printed(told)) if as_json else show_rows(told, plot)
        return
    if at_rates:
        if input_tokens is not None or output_tokens is not None:
            raise click.UsageError("--at-rates goes by the requests that were measured; leave out their tokens.")
        need("server")
        with connect() as client:
            chosen_at = choices(client, {model, *also})
        print_json(AtRates(tuple(chosen_at))) if as_json else show_choices(chosen_at)
        return
    prompt = 500 if input_tokens is None else input_tokens
    with connect() as client:
        found = client.profiles()
        chosen = _chosen(found, model, None)
        answer = output_tokens if output_tokens is not None else _answer(found, model)
        zones = {one.zone: intensity_now(client, one.zone) for one in chosen}
    sides = sorted((Side.of(one, zones[one.zone], 1000 * prompt, 1000 * answer) for one in chosen), key=Side.order)
    if as_json:
        pools = [
            Compared(one.known.pool, one.seconds, one.energy_j, one.g_per_kwh, one.grams, one.known.model, one.known.mode)
            for one in sides
        ]
        print_json(Beside(model, 1000, prompt, answer, tuple(pools)))
        return
    say(f"1,000 requests of {prompt} tokens in and {answer:.0f} out, on one replica, now:")
    least_j = min(side.energy_j for side in sides)
    print_table(
        ("pool", "way", "GPU", "seconds", "within", "kJ", "of least", "g/kWh", "grams", "source"),
        [
            (
                side.known.pool,
                side.known.model if side.known.variant_of else "plain",
                side.known.gpu,
                f"{side.seconds:,.0f}",
                f"x{math.exp(side.known.sigma):.2f}",
                f"{side.energy_j / 1000:,.1f}",
                f"x{side.energy_j / least_j:.2f}" if least_j else "",
                "unknown" if side.g_per_kwh is None else f"{side.g_per_kwh:.0f}",
                "unknown" if side.grams is None else f"{side.grams:,.2f}",
                side.known.source,
            )
            for side in sides
        ],
    )
    _say_drifts(chosen)


class Side(NamedTuple):
    """One pool in a comparison."""

    known: PoolProfile
    seconds: float
    energy_j: float
    g_per_kwh: float | None
    grams: float | None

    @classmethod
    def of(cls, known: PoolProfile, g_per_kwh: float | None, input_tokens: float, output_tokens: float) -> Side:
        """What a pool takes for that many tokens."""
        energy_j = known.energy_j(input_tokens, output_tokens)
        grams = None if g_per_kwh is None else operational_g(energy_j, known.pue, g_per_kwh)
        return cls(known, known.seconds(input_tokens, output_tokens), energy_j, g_per_kwh, grams)

    def order(self) -> tuple[float, float, str]:
        """Least grams first, those unknown last."""
        return (math.inf if self.grams is None else self.grams, self.energy_j, self.known.pool)


def _chosen(found: Profiles, model: str | None, pool: str | None) -> list[PoolProfile]:
    """Those of a model, in each way to serve it, or on a pool. Raises NotFound."""
    chosen = [one for one in found.profiles if model in {None, one.model, one.variant_of} and pool in {None, one.pool}]
    if not chosen:
        known = ", ".join(sorted({f"{one.model} on {one.pool}" for one in found.profiles})) or "none"
        raise NotFound(f"No profile of that model and pool is known; there are: {known}.")
    return chosen


def _answer(found: Profiles, model: str) -> float:
    """The mean answer that is expected, of the endpoint of which most is known."""
    mine = [one for one in found.answers if one.model == model and one.mean_tokens > 0]
    return max(mine, key=lambda one: one.answers).mean_tokens if mine else 0.0


def _show_ways(chosen: Iterable[PoolProfile]) -> None:
    """Whether variants may be planned, and how their drafts fare."""
    for one in chosen:
        if one.variant_of:
            drafts = "" if one.acceptance is None else f" Drafts: {one.acceptance:.0%} of their tokens stay"
            step = "" if one.tokens_per_step is None else f", {one.tokens_per_step:.2f} tokens a step."
            sent = "" if one.bytes_per_token is None else f" Sent between its pools: {one.bytes_per_token:,.0f} bytes a token."
            say(f"{one.model} on {one.pool} ({one.mode}) {one.planned}{drafts}{step}{sent}")


def _say_drifts(chosen: Iterable[PoolProfile]) -> None:
    for one in chosen:
        if one.drift_factor is not None:
            change = f"takes {one.drift_factor:.2f} times as long since {when(one.drift_since)}"
            say(f"{one.model} on {one.pool} {change}; what was seen before counts no more. An update, or throttling?")
