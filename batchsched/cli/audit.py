"""`batchsched audit`: who did what, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.common import Connect, json_option, print_json, print_table, server_options, when
from batchsched.cli.forecast import instant

if TYPE_CHECKING:
    from batchsched.client import Client
    from batchsched.client.audit import Entry

PAGE = 1000
"""Entries that one answer holds at most."""


@click.command()
@click.option("--from", "since", metavar="TIME", help="Only from then on; a date is its first moment, in UTC.")
@click.option("--to", "until", metavar="TIME", help="Only before then.")
@click.option(
    "--act", "acts", multiple=True, metavar="ACT", help="Only this act, such as pool.drain, or all about a pool (repeatable)."
)
@click.option("--by", "actor", metavar="WHO", help="Only what this key did, by its id; `static`, `local` and `scheduler` too.")
@click.option("--on", "object_id", metavar="ID", help="Only what was done to this: a batch, a pool, a window, a key, a file.")
@click.option("--tenant", metavar="NAME", help="Only what was done for this tenant.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@json_option
@server_options
def audit(since: str | None, until: str | None, limit: int, as_json: bool, connect: Connect, **which: Any) -> None:
    """Show who did what, when and to what, the newest last. With --json: one object a line.

    Needs a key with the scope `operate`.
    """
    start, end = instant(since, "--from") if since else None, instant(until, "--to") if until else None
    if start and end and start >= end:
        raise click.UsageError("--to must lie after --from.")
    with connect() as client:
        found = _newest(client, limit, since=start, until=end, **which)
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [(when(one.when) or "", one.actor, one.tenant, one.action, one.object_id, _told(one.detail)) for one in found]
    print_table(("when", "who", "tenant", "act", "on", "with"), rows)


def _newest(client: Client, limit: int, *, acts: tuple[str, ...], since: datetime | None, **which: Any) -> list[Entry]:
    """The newest `limit` entries in the order in which they were made."""
    from batchsched.client.audit import entries

    found: list[Entry] = []
    more = True
    while more and len(found) < limit:
        after = found[-1].id if found else 0
        asked = entries(limit=min(limit - len(found), PAGE), after=after, newest=True, actions=acts, since=since, **which)
        page = client.send(asked)
        found += page.data
        more = page.has_more
    return found[::-1]


def _told(detail: Mapping[str, Any]) -> str:
    """What was said besides, as far as it says something."""
    return ", ".join(f"{name} {value}" for name, value in detail.items() if value is not None)
