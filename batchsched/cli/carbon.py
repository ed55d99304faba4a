"""`batchsched carbon`: what hardware cost to make and what running it costs; arithmetic that needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.carbon_options import CELLS, claims, form_of, model_option, number, three
from batchsched.cli.carbon_reproduce import reproduce
from batchsched.cli.carbon_whatif import compare, crossover, what_if
from batchsched.cli.common import config_option, json_option, load, plain, print_facts, print_json, print_table

if TYPE_CHECKING:
    from batchsched.carbon.hardware import Estimate
    from batchsched.catalogue import Catalogue, Gpu, Host, Part
    from batchsched.settings import Loaded


@click.group()
def carbon() -> None:
    """What hardware cost to make, and what running it costs."""


for _command in (compare, crossover, what_if, reproduce):
    carbon.add_command(_command)


@carbon.command()
@click.argument("name", required=False)
@click.option("--explain", is_flag=True, help="The equation with numbers put in, and the source of each number.")
@click.option("--parts", is_flag=True, help="List servers and their parts instead of GPUs.")
@model_option
@json_option
@config_option
def hardware(name: str | None, explain: bool, parts: bool, model: str | None, as_json: bool, config: Path | None) -> None:
    """Show one GPU, server or part, or list all: specifications, embodied carbon by model, each figure with its source."""
    if (parts and name) or (explain and not name):
        raise click.UsageError("--parts lists all: leave the NAME out." if parts else "--explain needs a NAME.")
    loaded = load(config)
    known = loaded.catalogue
    if name is None:
        _list_parts(known, as_json) if parts else _list(known, model or loaded.settings.carbon.embodied_model, as_json)
        return
    from batchsched.carbon.models import MODELS as BY_NAME
    from batchsched.carbon.models import host_estimates

    if host := known.hosts.get(name.lower()):
        estimates = [one for one in host_estimates(host, known) if model in {None, one.model}]
        _show(host, estimates, known, None, explain, as_json)
        return
    if part := known.parts.get(name.lower()):
        _show(part, [], known, None, explain, as_json)
        return
    gpu = known.gpu(name)
    estimates = [make(gpu, known) for key, make in BY_NAME.items() if model in {None, key}]
    _show(gpu, estimates, known, _crossings(gpu, estimates, loaded), explain, as_json)


def _crossings(gpu: Gpu, estimates: list[Estimate], loaded: Loaded) -> dict[str, Any] | None:
    """The intensity at which making equals running, by model, at the power limit, always busy."""
    from batchsched.carbon.whatif import Terms, hour

    terms = Terms(0.0, loaded.settings.carbon.lifetime_years)
    hours = {one.model: hour(gpu, one.kg, terms) for one in estimates if one.kg}
    found = {model: one.crossover_g_per_kwh for model, one in hours.items() if one}
    if not found or not gpu.tdp_w:
        return None
    basis = f"always busy at {gpu.tdp_w.value:g} W, PUE {terms.pue:g}, {terms.lifetime_years:g} years"
    return {"basis": basis, "g_per_kwh": found}


def _list(known: Catalogue, model: str, as_json: bool) -> None:
    from batchsched.carbon.models import Hardware

    made = Hardware(known, model)  # type: ignore[arg-type]  # click checked it
    if as_json:
        from batchsched.cli.printed_library import Listed

        for gpu in known.gpus.values():
            print_json(Listed(gpu, made.gpu(gpu.name)))
        return
    heads = (
        "GPU",
        "die mm2",
        "nm",
        "memory",
        "GB/s",
        "limit W",
        "idle W",
        "FP16 TFLOP/s",
        "FP16 tensor",
        "FP32",
        f"kgCO2e, {model}",
    )
    print_table(heads, [[*_row(gpu), three(made.gpu(gpu.name).kg)] for gpu in known.gpus.values()])


def _row(gpu: Gpu) -> list[str]:
    memory = f"{number(gpu.memory_gb)} {gpu.memory_kind.value if gpu.memory_kind else ''}".strip()
    rates = (gpu.fp16_tflops, gpu.fp16_tensor_tflops, gpu.fp32_tflops)
    cells = (gpu.bandwidth_gb_per_s, gpu.tdp_w, gpu.idle_w, *rates)
    return [gpu.name, number(gpu.die_mm2), number(gpu.node_nm), memory, *map(number, cells)]


def _list_parts(known: Catalogue, as_json: bool) -> None:
    things: list[Host | Part] = [*known.hosts.values(), *known.parts.values()]
    if as_json:
        for thing in things:
            print_json(thing)
        return
    rows = [(host.name, "server", claims(host.kg, "kg") if host.kg else _range(host), "") for host in known.hosts.values()]
    for part in known.parts.values():
        per = f"/{part.per.value}" if part.per else ""
        draws = claims(part.w_per_unit, f"W{per}") if part.w_per_unit else ""
        rows.append((part.name, part.kind.value if part.kind else "", claims(part.kg, f"kg{per}"), draws))
    print_table(("name", "kind", "kgCO2e, each with its source", "draws"), rows)


def _range(host: Host) -> str:
    cells = (host.low_kg, host.mid_kg, host.high_kg)
    return "; ".join(f"{cell.value:g} kg {cell.source}" for cell in cells if cell) or "unknown"


def _show(
    thing: Gpu | Host | Part,
    estimates: list[Estimate],
    known: Catalogue,
    crossings: dict[str, Any] | None,
    explain: bool,
    as_json: bool,
) -> None:
    if as_json:
        from batchsched.cli.printed_library import Hardware

        print_json(Hardware(plain(thing), tuple(estimates), crossings, _sources(thing, estimates, known)))
        return
    click.echo(f"{thing.name}: {thing.title}\n")
    # What the model `published` is made of is told with the models.
    hidden = {"low_kg", "mid_kg", "high_kg"} if estimates else set[str]()
    cells = {name: getattr(thing, name) for name in CELLS if hasattr(thing, name) and name not in hidden}
    print_facts((CELLS[name][0], claims(cell, CELLS[name][1], explain, form_of(name))) for name, cell in cells.items())
    if estimates:
        click.echo("\nEmbodied carbon, kgCO2e (low / mid / high):")
    for one in estimates:
        why = f" ({one.spread})" if explain or one.kg is None else ""
        click.echo(f"- {one.model}: {three(one.kg)}{why}")
        if explain and one.kg:
            _explain(one)
    if spread := _spread(thing, estimates):
        click.echo(f"\nPublished figures lie between {spread}.")
    if crossings:
        click.echo(f"\nMaking weighs as much as running at, in g/kWh ({crossings['basis']}):")
        print_facts((f"- {model}", three(found)) for model, found in crossings["g_per_kwh"].items())
    if explain:
        click.echo("\nSources:")
        print_facts((f"- {key}", text) for key, text in _sources(thing, estimates, known).items())


def _explain(one: Estimate) -> None:
    click.echo(f"    {one.equation}")
    for term in one.terms:
        value = term.value if isinstance(term.value, str) else f"{term.value:g}"
        note = f", {term.note}" if term.note else ""
        click.echo(f"      {term.name}: {value} {term.unit}".rstrip() + f" [{term.source}{note}]")


def _spread(thing: Gpu | Host | Part, estimates: list[Estimate]) -> str | None:
    """Of what others published of the whole device, not of what we compute."""
    said = getattr(thing, "embodied_kg", None)
    known = [value for one in estimates if one.kg and one.model == "published" for value in (one.kg.low, one.kg.high)]
    known += [claim.value for claim in said.all] if said else []
    return f"{min(known):.3g} and {max(known):.3g} kg, {max(known) / min(known):.2g} times" if len(set(known)) > 1 else None


def _sources(thing: Gpu | Host | Part, estimates: list[Estimate], known: Catalogue) -> dict[str, str]:
    """In full, those that were named."""
    cells = [getattr(thing, name) for name in thing.__struct_fields__ if name not in {"name", "title"}]
    used = {claim.source for cell in cells if cell for claim in cell.all}
    used |= {term.source for one in estimates for term in one.terms}
    used -= {""}  # a kind or a unit is nobody's claim
    return {key: known.reference(key) for key in sorted(used)}
