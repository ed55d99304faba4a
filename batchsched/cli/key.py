"""`batchsched key`: API keys, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchsched.cli import exits
from batchsched.cli.common import (
    Connect,
    dry_run_option,
    json_option,
    print_json,
    print_list,
    say,
    server_options,
    sure,
    when,
    yes_option,
)

if TYPE_CHECKING:
    from batchsched.client.results import Key

SCOPES = ("submit", "read", "operate", "worker")


@click.group()
def key() -> None:
    """API keys: who may do what, for which tenant. Needs a key with the scope `operate`, or a server that knows no key yet."""


@key.command()
@click.option("--name", default="", help="What it is for, in your words.")
@click.option("--tenant", metavar="NAME", help="Whose batches it sees and makes [default: those of the key in use].")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="What it may do (repeatable). The first key of a server needs `operate`.",
)
@click.option("--expires", metavar="WHEN", help="A duration such as 90d, or an instant [default: never].")
@json_option
@server_options
def create(name: str, tenant: str | None, scopes: tuple[str, ...], expires: str | None, as_json: bool, connect: Connect) -> None:
    """Make a key and print it: this once, for only its hash is kept."""
    from batchsched.client import calls

    with connect() as client:
        made = client.send(calls.create_key(scopes, name=name, tenant=tenant, expires=expires))
    if as_json:
        print_json(made)
        return
    say(f"Key {made.id} of tenant {made.tenant} ({', '.join(made.scopes)}). It is shown this once:")
    click.echo(made.key)


@key.command("list")
@json_option
@server_options
def list_(as_json: bool, connect: Connect) -> None:
    """List the keys of all tenants, oldest first. With --json: one object a line."""
    from batchsched.client import calls

    found: list[Key] = []
    with connect() as client:
        after, more = None, True
        while more:
            page = client.send(calls.list_page("batchsched/keys", after))
            found += calls.read_keys(page)
            after, more = page.last_id, page.has_more
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (one.id, one.tenant, " ".join(one.scopes), one.name, when(one.last_used) or "never", when(one.expires) or "", one.state)
        for one in found
    ]
    print_list(("id", "tenant", "scopes", "name", "last used", "expires", "state"), rows)


@key.command()
@click.argument("key_id", metavar="ID")
@yes_option
@dry_run_option
@json_option
@server_options
def revoke(key_id: str, yes: bool, dry_run: bool, as_json: bool, connect: Connect) -> int:
    """End a key at once, on every server."""
    from batchsched.client import calls

    if not dry_run and not sure(f"End key {key_id}, for good?", yes=yes):
        return exits.FAILURE
    with connect() as client:
        ended = client.send(calls.revoke_key(key_id, dry_run=dry_run))
    if as_json:
        print_json(ended)
    else:
        say(f"Key {ended.id} {'would be' if dry_run else 'is'} revoked.")
    return exits.OK
