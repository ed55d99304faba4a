"""`batchsched pool`: pools, for operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import (
    Connect,
    dry_run_option,
    json_option,
    print_json,
    print_list,
    say,
    server_options,
    show_many,
    watch_option,
    when,
)
from batchsched.cli.completing import pool_names
from batchsched.cli.manners import quiet

if TYPE_CHECKING:
    from batchsched.client.plans import PoolStatus, Promise, SpareNow


@click.group()
def pool() -> None:
    """Pools: see them, take them out of service, open them again. What is decided holds on every server and over restarts."""


@pool.command("list")
@watch_option
@json_option
@server_options
def list_(watch: bool, as_json: bool, connect: Connect) -> None:
    """List the pools and how each stands. With --json: one object a line."""
    with connect() as client:
        show_many(client.pools.list, lambda found: _show(found, as_json), as_json=as_json, watch=watch)


_since = click.option("--from", "since", metavar="WHEN", help="A duration such as 6h, or an instant [default: now].")
_until = click.option("--until", metavar="WHEN", help="A duration such as 6h, or an instant [default: until `pool open`].")


@pool.command()
@click.argument("name", shell_complete=pool_names)
@_since
@_until
@dry_run_option
@json_option
@server_options
def cordon(name: str, since: str | None, until: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Lease nothing new to a pool and plan nothing there; what runs goes on."""
    with connect() as client:
        _show((client.pools.cordon(name, since=since, until=until, dry_run=dry_run),), as_json, dry_run)


@pool.command()
@click.argument("name", shell_complete=pool_names)
@_since
@_until
@dry_run_option
@json_option
@server_options
def drain(name: str, since: str | None, until: str | None, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Cordon a pool, and have what runs given back unfinished, which costs it no attempt."""
    with connect() as client:
        _show((client.pools.drain(name, since=since, until=until, dry_run=dry_run),), as_json, dry_run)


@pool.command("open")
@click.argument("name", shell_complete=pool_names)
@dry_run_option
@json_option
@server_options
def open_(name: str, dry_run: bool, as_json: bool, connect: Connect) -> None:
    """Let a pool work again, and forget a closing that was planned. Workers that got no work because of memory errors of their
    GPUs go on as these are; each such GPU is named."""
    with connect() as client:
        _show((client.pools.open(name, dry_run=dry_run),), as_json, dry_run)


def _show(found: Sequence[PoolStatus], as_json: bool, dry_run: bool = False) -> None:
    if dry_run and not as_json:
        say("Nothing is changed. The pool would be as follows.")
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one.id,
            one.site + (" (simulated)" if one.simulated else ""),
            one.zone,
            one.kind,
            one.gpu,
            str(one.replicas),
            f"{one.workers} of {one.startable} startable" if one.startable else str(one.workers),
            _state(one),
        )
        for one in found
    ]
    print_list(("pool", "site", "zone", "kind", "gpu", "replicas", "workers", "state"), rows)
    for one in () if quiet() else found:
        for ill in one.ills:
            click.echo(f"{one.id}: {ill}")
        for engine in one.failing:
            click.echo(f"{one.id}: {engine}")
        for trouble in one.troubles:
            click.echo(f"{one.id}: {trouble}")
        for passed in one.pardoned:
            click.echo(f"{one.id}: {passed}, until there are more or it is reset")
        if one.slo and one.spare:
            click.echo(f"{one.id}: {_shared(one.slo, one.ceiling, one.spare)}")


def _shared(slo: Promise, ceiling: int | None, spare: SpareNow) -> str:
    """How a spare pool's servers are shared."""
    learnt = f"learnt from {spare.quarters_seen / 4:g} h" if spare.quarters_seen else "a guess, nothing was seen yet"
    return (
        f"online p{slo.percentile:g} within {slo.ttft_ms:g} ms to the first token and {slo.tpot_ms:g} ms for each further one; "
        f"at most {ceiling} offline requests at a server; now {spare.tokens_per_s:.0f} tokens/s of each are spare "
        f"(8 of 10 quarters of an hour: {spare.p10:.0f} to {spare.p90:.0f}; {learnt})"
    )


def _state(one: PoolStatus) -> str:
    """How a pool stands, and what is planned."""
    in_part = f", {one.share:.0%} of it" if one.state == "open" and one.share < 1 else ""
    since, until = (f" {word} {when(at)}" if at else "" for word, at in (("since", one.since), ("until", one.until)))
    now = one.state + in_part + since + until
    if not (ahead := one.ahead):
        return now
    return f"{now}; {ahead.how} from {when(ahead.since)}" + (f" until {when(ahead.until)}" if ahead.until else "")
