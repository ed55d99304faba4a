"""`batchsched profile compare --modes`: the ways in which a model was measured, side by side, and whether they saved anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchsched.cli.common import print_table, say
from batchsched.cli.profile_choice import intensity_now
from batchsched.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchsched.carbon.modes import Verdict
    from batchsched.cli.printed_library import Ways
    from batchsched.client import Client
    from batchsched.client.profiles import PoolProfile
    from batchsched.profiles.modes import Side


class Row(NamedTuple):
    """One way under one load. `verdict`: equations 4 to 6 against the plain way on the same pool; None where `missing` says what
    is not known for it, and of the plain way itself."""

    side: Side
    verdict: Verdict | None
    missing: str = ""


def rows(client: Client, model: str, lifetime_years: float) -> list[Row]:
    """By what was measured of a model and its variants. Raises NotFound where nothing was."""
    from batchsched.client.profiles import trials
    from batchsched.profiles.modes import Way, beside, sides

    known = [one for one in client.profiles().profiles if model in {one.model, one.variant_of}]
    ways = {one.model: Way(one.mode, one.variant_of, one.partner_pool) for one in known}
    found = sides(client.send(trials()).trials, ways)
    if not found:
        raise NotFound(
            f"Nothing was measured of {model} or another way to serve it.",
            hint="`batchsched profile run --pool P --model M --mode MODE` measures one; docs/modes.md says how to declare it.",
        )
    places = {one.pool: one for one in client.profiles().profiles}
    grid = {zone: intensity_now(client, zone) for zone in {places[one.pool].zone for one in found if one.pool in places}}
    told: list[Row] = []
    for side in found:
        verdict = _verdict(side, beside(side, found), places, grid, lifetime_years) if side.way.variant_of else ""
        told.append(Row(side, None, verdict) if isinstance(verdict, str) else Row(side, verdict))
    return told


def _verdict(
    side: Side, plain: Side | None, places: Mapping[str, PoolProfile], grid: Mapping[str, float | None], years: float
) -> Verdict | str:
    """Or what is not known for it."""
    from batchsched.carbon.greenllm import Device, Split, Use
    from batchsched.carbon.modes import judge, making

    if plain is None:
        return f"{side.way.variant_of} on {side.pool} under that load"
    if not side.own_j_per_token or not plain.energy_j_per_token:
        return f"the energy of {plain.name if side.own_j_per_token else side.name}"
    place, partner = places.get(side.pool), places.get(side.way.partner_pool or side.pool)
    if place is None:
        return f"the pool {side.pool}"
    g_per_kwh = grid.get(place.zone)
    if g_per_kwh is None:
        return f"the carbon intensity of {place.zone}"
    made, partner_made = (making(one.gpu) if one else None for one in (place, partner))
    if made is None or partner_made is None:
        return f"what making the GPUs of {side.pool if made is None else side.way.partner_pool} took"
    split = Split(
        alone=Use(plain.seconds_per_token, plain.energy_j_per_token),
        new=Use(side.seconds_per_token, side.own_j_per_token),
        old=Use(side.partner_s_per_token, side.partner_j_per_token),
        new_gpu=Device(made.mid, years),
        old_gpu=Device(partner_made.mid, years),
    )
    return judge(split, g_per_kwh * place.pue, modelled=side.modelled or plain.modelled)


def show(found: Sequence[Row], plot: Path | None) -> None:
    """As a table, and as a picture where one is asked for."""
    sides: list[Side] = [row.side for row in found]
    print_table(
        ("load", "way", "mode", "tokens/s", "J/token", "of it there", "in SLO", "drafts kept", "tokens/step", "B/token", "MB/s"),
        [
            (
                side.load,
                side.name,
                side.way.mode,
                f"{side.tokens_per_s:,.0f}",
                "" if side.energy_j_per_token is None else f"{side.energy_j_per_token:.3g}",
                f"{side.partner_j_per_token:.3g}" if side.partner_j_per_token else "",
                "" if side.attainment is None else f"{side.attainment:.0%}",
                "" if side.acceptance is None else f"{side.acceptance:.0%}",
                "" if side.tokens_per_step is None else f"{side.tokens_per_step:.2f}",
                "" if side.bytes_per_token is None else f"{side.bytes_per_token:,.0f}",
                "" if side.link_bytes_per_s is None else f"{side.link_bytes_per_s / 1e6:.3g}",
            )
            for side in sides
        ],
    )
    for row in found:
        if row.verdict is not None:
            say(f"{row.side.name}, {row.side.load}: {row.verdict.sentence}.")
        elif row.missing:
            say(f"{row.side.name}, {row.side.load}: no verdict, since {row.missing} is not known.")
    if plot:
        picture(found, plot)


def picture(found: Sequence[Row], path: Path) -> None:
    """After the paper's Figure 4."""
    from batchsched.cli.profile_pictures import of_modes

    of_modes([row.side for row in found], path)


def printed(found: Sequence[Row]) -> Ways:
    """For --json."""
    from batchsched.cli.printed_library import MeasuredWay, Ways

    return Ways(tuple(MeasuredWay(row.side.name, row.side.load, row.side, row.verdict) for row in found))
