"""`batchsched carbon compare`, `crossover` and `what-if`: GPUs side by side, and one GPU under other terms."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.carbon_options import model_option, number, picture_option, three
from batchsched.cli.common import Number, config_option, json_option, load, need, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchsched.carbon.hardware import Estimate, Range
    from batchsched.carbon.storage import Keeping
    from batchsched.carbon.whatif import Hour, Terms
    from batchsched.catalogue import Catalogue, Gpu
    from batchsched.settings import Loaded

positive = Number(0, min_open=True)
POLICIES = ("sunk", "whole_life", "remaining", "cut_off")
lifetime_option = click.option("--lifetime", type=positive, metavar="YEARS", help="Service life [default: configuration].")
pue_option = click.option("--pue", type=Number(1, 3), default=1.2, show_default=True, help="Facility's overhead.")
power_option = click.option("--power", type=positive, metavar="W", help="Draw while busy [default: the GPU's limit].")
busy_option = click.option(
    "--utilisation",
    type=Number(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the time it is busy; else it idles.",
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="GPU...")
@model_option
@click.option("--intensity", type=Number(0), default=261.0, show_default=True, help="Grid, in g/kWh.")
@lifetime_option
@pue_option
@busy_option
@picture_option
@json_option
@config_option
def compare(
    names: tuple[str, ...],
    model: str | None,
    intensity: float,
    lifetime: float | None,
    pue: float,
    utilisation: float,
    plot: Path | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Set GPUs side by side: what they are, what making them cost by each model, grams an hour, and where both weigh the same."""
    from batchsched.carbon.whatif import Terms

    loaded = load(config)
    known, years = loaded.catalogue, lifetime or loaded.settings.carbon.lifetime_years
    gpus = [known.gpu(name) for name in names]
    terms = Terms(intensity, years, pue, utilisation=utilisation)
    chosen = model or loaded.settings.carbon.embodied_model
    columns = [_compared(gpu, chosen, terms, known) for gpu in gpus]
    if plot:
        need("server")
        from batchsched.cli.carbon_comparison import draw

        draw(columns, terms, plot)
    if as_json:
        from batchsched.cli.printed_library import Column

        for column in columns:
            print_json(Column(**column))
        return
    print_table(("", *(gpu.name for gpu in gpus)), _rows(columns, chosen))
    for gpu in gpus:
        _warn(gpu, [terms])
    say(f"Grams are for an hour at {intensity:g} g/kWh, busy {utilisation:.0%} of it, PUE {pue:g}, a life of {years:g} years.")


def _compared(gpu: Gpu, model: str, terms: Terms, known: Catalogue) -> dict[str, Any]:
    from batchsched.carbon.models import MODELS
    from batchsched.carbon.whatif import hour

    made: dict[str, Estimate] = {name: make(gpu, known) for name, make in MODELS.items()}
    return {"gpu": gpu, "embodied": made, "model": model, "hour": hour(gpu, made[model].kg, terms)}


def _rows(columns: Sequence[dict[str, Any]], model: str) -> list[list[str]]:
    from batchsched.cli.carbon_options import CELLS, form_of

    gpus: list[Gpu] = [column["gpu"] for column in columns]
    shown = [name for name in CELLS if name in gpus[0].__struct_fields__ and not name.endswith("_kg")]
    rows = [
        [", ".join(filter(None, CELLS[name])), *(number(getattr(gpu, name), form_of(name)) for gpu in gpus)] for name in shown
    ]
    made = [column["embodied"] for column in columns]
    rows += [[f"embodied kg, {name}", *(three(by_model[name].kg) for by_model in made)] for name in made[0]]
    hours: list[Hour | None] = [column["hour"] for column in columns]
    return [
        *rows,
        ["running, g/h", *(f"{one.operational_g:.4g}" if one else "unknown" for one in hours)],
        [f"making, g/h, {model}", *(three(one.embodied_g if one else None) for one in hours)],
        ["equal at, g/kWh", *(three(one.crossover_g_per_kwh if one else None) for one in hours)],
    ]


@click.command()
@click.argument("name", metavar="GPU")
@lifetime_option
@pue_option
@power_option
@busy_option
@json_option
@config_option
def crossover(
    name: str, lifetime: float | None, pue: float, power: float | None, utilisation: float, as_json: bool, config: Path | None
) -> None:
    """The grid at which making a GPU weighs as much as running it: by each model, and by each figure that was published."""
    from batchsched.carbon.hardware import Range
    from batchsched.carbon.models import MODELS
    from batchsched.carbon.whatif import Terms, hour

    loaded = load(config)
    gpu = loaded.catalogue.gpu(name)
    terms = Terms(0.0, lifetime or loaded.settings.carbon.lifetime_years, pue, utilisation=utilisation, power_w=power)
    several = {model: make for model, make in MODELS.items() if model not in {"greenllm_table1", "vendor"}}
    kgs: dict[str, Range] = {model: kg for model, make in several.items() if (kg := make(gpu, loaded.catalogue).kg)}
    said = gpu.embodied_kg.all if gpu.embodied_kg else ()
    kgs |= {f"[{one.source}]": Range(*[one.value] * 3) for one in said}
    found = {by: one for by, kg in kgs.items() if (one := hour(gpu, kg, terms))}
    if as_json:
        from batchsched.cli.printed_library import Crossing

        print_json(Crossing(gpu.name, terms, found))
        return
    notes = {f"[{one.source}]": one.note for one in said}
    print_table(
        ("by", "kgCO2e", "equal at, g/kWh", "note"),
        [(by, three(kgs[by]), three(one.crossover_g_per_kwh), notes.get(by, "")) for by, one in found.items()],
    )
    for one in list(found.values())[:1]:
        basis = f"{one.power_w:g} W on average, PUE {pue:g}, a life of {terms.lifetime_years:g} years"
        say(f"Below that grid, making it weighs more. {basis}; `carbon hardware {gpu.name} --explain` has the sources.")
    _warn(gpu, [terms], None if kgs else "no model has a figure for making it")


@click.command("what-if")
@click.argument("name", metavar="GPU")
@click.option(
    "--zone", multiple=True, metavar="ZONE", help="A grid's typical year, from the built-in climatology; several: a row each."
)
@click.option("--intensity", type=Number(0), multiple=True, help="A grid in g/kWh [default: 17, 261 and 501].")
@click.option("--lifetime", type=positive, multiple=True, metavar="YEARS", help="Service life [default: configuration].")
@click.option("--pue", type=Number(1, 3), multiple=True, help="Facility's overhead [default: 1.2].")
@click.option("--policy", type=click.Choice(POLICIES), multiple=True, help="Who pays for making it [default: whole_life].")
@click.option("--utilisation", type=Number(0, 1), multiple=True, help="Share of the time it is busy [default: 1].")
@power_option
@click.option("--age", type=Number(0), default=0.0, metavar="YEARS", help="How old it is; with --second-life, when that began.")
@click.option("--second-life", type=positive, metavar="YEARS", help="It is reused, and to be for so long.")
@click.option("--stored", type=Number(0), metavar="GB", help="Also keep so much data (weights, caches, files, logs).")
@click.option("--medium", type=click.Choice(["ssd", "hdd"]), help="What it is kept on [default: ssd].")
@click.option(
    "--preset", type=click.Choice(["greenllm"]), help="Charge as this paper does, and say what that leaves unallocated."
)
@model_option
@json_option
@config_option
def what_if(
    name: str,
    zone: tuple[str, ...],
    intensity: tuple[float, ...],
    lifetime: tuple[float, ...],
    pue: tuple[float, ...],
    policy: tuple[str, ...],
    utilisation: tuple[float, ...],
    power: float | None,
    age: float,
    second_life: float | None,
    stored: float | None,
    medium: str | None,
    preset: str | None,
    model: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """An hour of a GPU under other terms; a row for each combination of what is given several times."""
    from batchsched.carbon.whatif import Terms

    loaded = load(config)
    gpu = loaded.catalogue.gpu(name)
    grids = [*((f"{one:g}", one) for one in intensity), *(_typical(one) for one in zone)]
    if not grids:
        grids = [(f"{one:g}", one) for one in (17.0, 261.0, 501.0)]
    if medium and not stored:
        raise click.UsageError("--medium says what --stored is kept on: give both.")
    if preset:
        if lifetime or pue or policy or model or age or second_life or stored:
            raise click.UsageError("--preset names lifetime, PUE, policy, model and what counts itself; leave them out.")
        _as_printed(gpu, grids, utilisation or (1.0,), power, as_json)
        return
    combined = itertools.product(
        grids,
        lifetime or (loaded.settings.carbon.lifetime_years,),
        pue or (1.2,),
        policy or ("whole_life",),
        utilisation or (1.0,),
    )
    asked = [
        (grid, Terms(at, years, overhead, who, busy, power, age, second_life))  # type: ignore[arg-type]  # click checked the policy
        for (grid, at), years, overhead, who, busy in combined
    ]
    _what_if(gpu, asked, model, (stored, medium or "ssd") if stored else None, loaded, as_json)


def _what_if(
    gpu: Gpu,
    asked: list[tuple[str, Terms]],
    model: str | None,
    kept: tuple[float, str] | None,
    loaded: Loaded,
    as_json: bool,
) -> None:
    from msgspec.structs import asdict

    from batchsched.carbon.models import MODELS
    from batchsched.carbon.whatif import hour
    from batchsched.cli.printed_library import Supposed

    chosen = model or loaded.settings.carbon.embodied_model
    made = MODELS[chosen](gpu, loaded.catalogue)  # type: ignore[index]
    rows: list[list[str]] = []
    for grid, terms in asked:
        found, data = hour(gpu, made.kg, terms), _keeping(kept, terms, loaded.catalogue)
        if as_json:
            said: dict[str, Any] = asdict(found) if found else {"terms": terms}
            print_json(Supposed(gpu.name, chosen, grid, storage=data, **said))
            continue
        held = [grid, f"{terms.lifetime_years:g}", f"{terms.pue:g}", terms.policy, f"{terms.utilisation:.0%}"]
        keeping_g = [f"{data.operational_g:.4g}", three(data.embodied_g)] if data else ["unknown", "unknown"]
        rows.append([*held, *_grams(found), *(keeping_g if kept else ())])
    if rows:
        heads = ("g/kWh", "years", "PUE", "policy", "busy", "running, g/h", "making, g/h", "share of making", "equal at, g/kWh")
        print_table((*heads, *(("running storage, g/h", "making it, g/h") if kept else ())), rows)
        say(f"{gpu.name} by the model {chosen}; low / mid / high. {made.spread}")
        others = [name for name, make in MODELS.items() if make(gpu, loaded.catalogue).kg]
        advice = f"--model {' or '.join(others)} has one" if others else "no model has one"
        _warn(gpu, [terms for _, terms in asked], None if made.kg else f"{chosen} has no figure for making it, {advice}")


def _warn(gpu: Gpu, asked: Sequence[Terms], no_figure: str | None = None) -> None:
    """Say what stands in, what is missing, and what is zero for a reason."""
    from batchsched.fleet import IDLE_SHARE_OF_TDP

    if no_figure:
        say(f"{gpu.name}: {no_figure}; `carbon.catalogue` names a file with figures of your own.")
    if gpu.tdp_w is None and any(one.power_w is None for one in asked):
        say(f"{gpu.name}: its power limit is not known, so what it draws is not; --power of crossover and what-if says it.")
    elif gpu.idle_w is None and any(one.utilisation < 1 for one in asked):
        say(f"{gpu.name}: its idle power was not found; {IDLE_SHARE_OF_TDP:.0%} of its limit stands in.")
    if any(one.second_life_years is None and one.age_years >= one.lifetime_years for one in asked):
        say(f"{gpu.name}: where it is as old as its life, it is written off and charged nothing more.")


def _keeping(kept: tuple[float, str] | None, terms: Terms, known: Catalogue) -> Keeping | None:
    """An hour of keeping data on disks that belong to nobody in particular."""
    from batchsched.carbon.storage import Stored, keeping

    if kept is None:
        return None
    stored = Stored("weights", kept[0], 3600, kept[1])  # type: ignore[arg-type]  # click checked the medium
    return keeping(stored, terms.intensity_g_per_kwh, pue=terms.pue, lifetime_years=terms.lifetime_years, catalogue=known)


def _grams(found: Hour | None) -> list[str]:
    if found is None:
        return ["unknown"] * 4
    making, total = found.embodied_g, found.total_g
    share = f"{making.mid / total.mid:.1%}" if making and total and total.mid else "unknown"
    return [f"{found.operational_g:.4g}", three(making), share, three(found.crossover_g_per_kwh)]


def _as_printed(gpu: Gpu, grids: list[tuple[str, float]], busy: tuple[float, ...], power: float | None, as_json: bool) -> None:
    from msgspec.structs import asdict

    from batchsched.carbon.presets import greenllm
    from batchsched.carbon.whatif import powers_w
    from batchsched.cli.printed_library import AsPaper

    watts = powers_w(gpu, power)
    rows: list[list[str]] = []
    for (grid, at), share in itertools.product(grids, busy):
        found = None
        if watts:
            busy_j = share * 3600 * watts[0]
            held_j = busy_j + (1 - share) * 3600 * watts[1]
            found = greenllm(gpu.name, share * 3600, busy_j, held_s=3600, held_energy_j=held_j, intensity_g_per_kwh=at)
        if found is None:
            raise click.UsageError(f"GreenLLM's Table 1 has no {gpu.name}; it has T4, V100 and A100-40.")
        if as_json:
            print_json(AsPaper(gpu=gpu.name, preset="greenllm", intensity_g_per_kwh=at, utilisation=share, **asdict(found)))
            continue
        left = (found.unallocated_operational_g, found.unallocated_embodied_g)
        figures = (found.operational_g, found.embodied_g, found.total_g, *left)
        rows.append([grid, f"{share:.0%}", *(f"{grams:.4g}" for grams in figures)])
    if rows:
        heads = ("g/kWh", "busy", "running, g/h", "making, g/h", "sum", "running, unallocated", "making, unallocated")
        print_table(heads, rows)
        say("As GreenLLM prints it: busy time of the GPU alone over 7 years, PUE 1. What idling costs is charged to nobody.")


def _typical(zone: str) -> tuple[str, float]:
    """The mean of a zone's typical year, and how it is named in the table. Raises ForecastUnavailable for an unknown zone."""
    from datetime import UTC, datetime, timedelta

    from batchsched.forecasts.climatology import Climatology

    start = datetime(2026, 1, 1, tzinfo=UTC)
    slots = Climatology().forecast(zone, start, start + timedelta(days=365)).slots
    known = [slot.mean_g_per_kwh for slot in slots if slot.mean_g_per_kwh is not None]
    mean = sum(known) / len(known)
    return f"{mean:.0f} ({zone})", mean
