"""What a shell offers for an argument: ids and names that the server knows. A server that is away offers nothing, and soon."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from batchsched.client import Client

Known = Callable[["Client"], Iterable[tuple[str, str]]]
"""Names, each with a word about it."""
PATIENCE_S = 2.0
MOST_BATCHES = 100
Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _offer(known: Known) -> Completer:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from batchsched.cli.common import open_client
        from batchsched.errors import BatchschedError

        given = context.params
        try:
            with open_client(given.get("config"), given.get("server"), given.get("api_key")) as client:
                found = list(known(client.with_options(timeout_s=PATIENCE_S, max_retries=0)))
        except (BatchschedError, OSError):
            return []
        return [CompletionItem(name, help=about) for name, about in found if name.startswith(incomplete)]

    return complete


def _batches(client: Client) -> Iterable[tuple[str, str]]:
    for one in itertools.islice(client.batches.list(), MOST_BATCHES):
        yield one.id, f"{one.status} {one.model or ''}".strip()


batch_ids = _offer(_batches)
pool_names = _offer(lambda client: ((one.id, f"{one.gpu}, {one.state}") for one in client.pools.list()))
schedule_names = _offer(lambda client: ((one.id, f"{one.cron}, {one.file}") for one in client.schedules.list()))
window_names = _offer(lambda client: ((one.id, f"{one.pool}, {one.state}") for one in client.windows.list()))
model_names = _offer(lambda client: ((one.id, "") for one in client.models.list()))
zone_names = _offer(lambda client: ((zone, "") for zone in sorted({feed.zone for feed in client.forecasts.list()})))
