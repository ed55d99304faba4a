"""`batchsched plan what-if` and `batchsched plan replay`: questions to the plan, which stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchsched.cli.common import Connect, grams, json_option, print_facts, print_json, print_table, server_options, when

if TYPE_CHECKING:
    from batchsched.client.plans import Replayed, WhatIf

MOST_LATE = 20


class Pair(click.ParamType):  # type: ignore[type-arg]
    """A name, and what is to be another about it."""

    name = "pair"

    def __init__(self, shape: str) -> None:
        self._shape = shape

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, what = value.rpartition("=")
        return (name, what) if name and what else self.fail(f"write {self._shape}.", param, ctx)


@click.command("what-if")
@click.option("--deadline", type=Pair("BATCH=+2h"), metavar="BATCH=+2h", multiple=True, help="A deadline moved, or set (=6h).")
@click.option("--pool", type=Pair("NAME=+2"), metavar="NAME=+2", multiple=True, help="Replicas more, or fewer (=-1), on a pool.")
@click.option("--without-site", metavar="SITE", multiple=True, help="As if the site were not there.")
@click.option("--with-zone", type=Pair("POOL=ZONE"), metavar="POOL=ZONE", multiple=True, help="A copy of a pool in that zone.")
@json_option
@server_options
def what_if(
    deadline: tuple[tuple[str, str], ...],
    pool: tuple[tuple[str, str], ...],
    without_site: tuple[str, ...],
    with_zone: tuple[tuple[str, str], ...],
    as_json: bool,
    connect: Connect,
) -> None:
    """Ask what would be, were something another: grams by prices and by solving again, and who would be late.

    Nothing changes. Options may be repeated and combined; the answer is about all of them together.
    """
    if not (deadline or pool or without_site or with_zone):
        raise click.UsageError("Say what is to be another: --deadline, --pool, --without-site or --with-zone.")
    with connect() as client:
        found = client.plans.what_if(
            deadlines=_once("--deadline", deadline),
            pools={name: _count(more) for name, more in _once("--pool", pool).items()},
            without_sites=without_site,
            with_zones=_once("--with-zone", with_zone),
        )
    if as_json:
        print_json(found)
    else:
        _show_what_if(found)


def _once(option: str, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"{option} says twice what is to be of {name}; say it once.")
    return dict(pairs)


def _count(text: str) -> int:
    if text[0] not in "+-" or not text[1:].isdecimal() or not int(text):
        raise click.UsageError(f"--pool: '{text}' is no change of replicas: write =+2 for two more, =-1 for one fewer.")
    return int(text)


def _show_what_if(found: WhatIf) -> None:
    what, *more = found.changes
    facts = [("what if", what), *(("and", text) for text in more)]
    difference = found.difference_g
    facts += [
        ("now", f"{grams(found.grams_before)} CO2e"),
        ("then", f"{grams(found.grams_after)} CO2e"),
        ("difference", f"{grams(abs(difference))} {'more' if difference > 0 else 'less'}" if difference else "none"),
    ]
    if found.by_prices_g is not None and abs(found.by_prices_g) >= 1e-3:
        bound = "at most" if found.by_prices_g < 0 else "at least"
        facts.append(("by prices", f"{bound} {grams(abs(found.by_prices_g))} {'less' if found.by_prices_g < 0 else 'more'}"))
    if found.unknown:
        facts.append(("unknown", f"the grams of {len(found.unknown)} batches; they are in no figure"))
    print_facts(facts)
    if found.late:
        click.echo("\nRequests expected to be late:")
        rows = [(one.batch_id, f"{one.requests_before:.0f}", f"{one.requests_after:.0f}") for one in found.late[:MOST_LATE]]
        print_table(("batch", "now", "then"), rows)
        if len(found.late) > MOST_LATE:
            click.echo(f"... and of {len(found.late) - MOST_LATE} batches more: --json names all.")
    else:
        click.echo("Nobody would be late who is not, and nobody in time who is late.")
    for note in found.notes:
        click.echo(f"Note: {note}")


@click.command()
@click.argument("which", metavar="[T]", required=False)
@json_option
@server_options
def replay(which: str | None, as_json: bool, connect: Connect) -> None:
    """Make a plan of the archive again: the one in force at the instant T, or of the number T [default: the last].

    Says whether it comes out the same; and of what was to be done by now, what its forecasts had said and what was measured.
    """
    from batchsched.cli.forecast import instant

    number = int(which) if which and which.isdecimal() else None
    at = instant(which, "T") if which and number is None else None
    with connect() as client:
        found = client.plans.replay(at, number=number)
    if as_json:
        print_json(found)
    else:
        _show_replayed(found)


def _show_replayed(found: Replayed) -> None:
    recipe = ", ".join(f"{name} {value}" for name, value in (found.recipe or {}).items() if name != "versions") or "not known"
    same = "yes" if found.same else f"no: objective {found.objective_before:.6g} then, {found.objective_again:.6g} now"
    print_facts([("plan", f"{found.id}, of {when(found.made_at)}"), ("made with", recipe), ("the same", same)])
    for text in found.differences:
        click.echo(f"- {text}")
    if found.came_true:
        click.echo("\nOf what was to be done by now:")
        rows = [
            (
                one.zone,
                grams(one.expected_g),
                grams(one.true_g),
                f"{one.true_g / one.expected_g - 1:+.1%}" if one.expected_g else "",
                f"{one.unknown_kwh:.3g} kWh",
            )
            for one in found.came_true
        ]
        print_table(("zone", "by its forecast", "as measured since", "difference", "not measured"), rows)
    for note in found.notes:
        click.echo(f"Note: {note}")
