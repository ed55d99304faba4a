"""`batchsched carbon reproduce`: published figures computed again, agreeing or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.carbon_options import picture_option
from batchsched.cli.common import Number, json_option, need, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchsched.carbon.claims import Claim
    from batchsched.carbon.reproduce_ecoserve import Reproduction as EcoServe
    from batchsched.carbon.reproduce_greenllm import Reproduction as GreenLlm

share = Number(0, min_open=True)


@click.group()
def reproduce() -> None:
    """Compute published figures again, and say whether they come out."""


@reproduce.command()
@click.option(
    "--rho", type=share, multiple=True, help="Assumed energy of both GPUs by the new one's alone [default: 0.6 0.7 0.8]."
)
@click.option("--new-time", type=share, multiple=True, help="Assumed time of the new GPU by its time alone [default: 0.5 1].")
@click.option(
    "--old-time", type=share, default=1.0, show_default=True, help="Assumed time of the old GPU by the new one's alone."
)
@click.option("--power", type=share, default=300.0, show_default=True, help="Assumed watts of the new GPU alone while busy.")
@click.option("--drafts", type=click.IntRange(1, 64), default=4, show_default=True, help="Assumed tokens drafted in a round.")
@click.option(
    "--acceptance",
    type=Number(0, 1, max_open=True),
    default=0.7,
    show_default=True,
    help="Assumed chance that a drafted token is accepted.",
)
@picture_option
@json_option
def greenllm(
    rho: tuple[float, ...],
    new_time: tuple[float, ...],
    old_time: float,
    power: float,
    drafts: int,
    acceptance: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """GreenLLM: Table 1, savings by intensity and lifetime, bandwidths; energies and times that it does not print are assumed."""
    from batchsched.carbon.reproduce_greenllm import Assumed, Load, reproduce
    from batchsched.carbon.traffic import Drafts
    from batchsched.profiles.slo import WORKLOADS

    loads = [
        Load(f"{name} {percentile}", size.input_tokens, size.output_tokens, workload.slo.tpot_s)
        for name, workload in WORKLOADS.items()
        for percentile, size in workload.sizes.items()
    ]
    default = Assumed()
    assumed = Assumed(rho or default.rho, new_time or default.new_time, old_time, power)
    found = reproduce(loads, assumed, Drafts(drafts, acceptance))
    if plot:
        need("server")
        from batchsched.cli.carbon_pictures import of_greenllm

        of_greenllm(found, plot)
    print_json(found) if as_json else _show_greenllm(found)


@reproduce.command()
@picture_option
@json_option
def ecoserve(plot: Path | None, as_json: bool) -> None:
    """EcoServe: its authors' example node, the die's share of a GPU, the host's share of a server, by their own calculator."""
    from batchsched.carbon.reproduce_ecoserve import reproduce

    found = reproduce()
    if plot:
        need("server")
        from batchsched.cli.carbon_pictures import of_ecoserve

        of_ecoserve(found, plot)
    print_json(found) if as_json else _show_ecoserve(found)


def _show_greenllm(found: GreenLlm) -> None:
    assumed, drafts = found.assumed, found.drafts
    click.echo("Table 1, embodied carbon (comes out only with 32 GB for the V100 and no packages for the T4)")
    print_table(
        ("GPU", "printed kg", "computed kg", "error %", "computed from", "as the table lists it, kg"),
        [
            (
                row.gpu,
                f"{row.published_kg:g}",
                f"{row.computed_kg:.3f}",
                f"{row.error_pct:+.2f}",
                row.inputs,
                f"{row.as_listed_kg:.2f}",
            )
            for row in found.table1
        ],
    )
    click.echo(
        f"\nSavings of an A100 with a T4 against the A100 alone. Assumed: rho (energy), t'A/tA (the A100's time), tB/tA = "
        f"{assumed.old_time:g}, {assumed.power_w:g} W"
    )
    print_table(
        ("rho", "t'A/tA", "17 g/kWh", "261 g/kWh", "501 g/kWh", "a shorter life of the A100"),
        [
            (
                f"{one.rho:g}",
                f"{one.new_time:g}",
                *(f"{saving:.1%}" for saving in one.saving.values()),
                _turns(one.new_life_turns_at_g_per_kwh),
            )
            for one in found.savings
        ],
    )
    for gpu in ("A100", "T4"):
        of_gpu = [one for one in found.lives if one.gpu == gpu]
        click.echo(f"\nSavings at 261 g/kWh by years of the {gpu}'s life; the other lives 7")
        print_table(
            ("rho", "t'A/tA", *of_gpu[0].saving),
            [(f"{one.rho:g}", f"{one.new_time:g}", *(f"{saving:.2%}" for saving in one.saving.values())) for one in of_gpu],
        )
    click.echo(
        f"\nBandwidth, Llama 7B, one request a second. Assumed: {drafts.tokens} drafts a round, {drafts.acceptance:.0%} accepted"
    )
    print_table(
        ("request", "cache MB", "drafts MB", "ratio", "cache Mbit/s in time", "drafts Mbit/s in time", "ratio"),
        [
            (
                link.load,
                f"{link.cache_bytes / 1e6:.1f}",
                f"{link.drafts_bytes / 1e6:.1f}",
                f"{link.volume_ratio:.1f}",
                f"{link.cache_bits_per_s / 1e6:,.0f}",
                f"{link.drafts_bits_per_s / 1e6:,.0f}",
                f"{link.rate_ratio:.0f}",
            )
            for link in found.links
        ],
    )
    _show_claims(found.claims)


def _turns(at: float | None) -> str:
    return "raises the saving" if at is None else f"lowers the saving above {at:.1f} g/kWh"


def _show_ecoserve(found: EcoServe) -> None:
    click.echo("The authors' example: 8 x H100, 2 TB of memory, 22.72 TB of disks, 4 years, 5.95 kW at 80 %")
    print_table(("figure", "computed"), [(name, f"{value:,.1f}") for name, value in found.node.items()])
    click.echo("\nIts parts")
    print_table(("part", "kg"), [(name, f"{kg:,.1f}") for name, kg in found.parts_kg.items()])
    _show_claims(found.claims)


def _show_claims(claims: Sequence[Claim]) -> None:
    click.echo("\nWhat was published, and what comes out")
    verdicts = {True: "yes", False: "no", None: "open"}
    print_table(
        ("about", "published", "computed", "agrees", "note"),
        [(claim.about, claim.published, claim.computed, verdicts[claim.agrees], claim.note) for claim in claims],
    )
