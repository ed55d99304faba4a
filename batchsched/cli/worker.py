"""`batchsched worker`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.common import config_option, load, need
from batchsched.cli.completing import pool_names

if TYPE_CHECKING:
    from batchsched.settings import Loaded


@click.command()
@click.option("--server", metavar="URL", help="The server [default: from the configuration].")
@click.option(
    "--pool",
    "pools",
    required=True,
    multiple=True,
    shell_complete=pool_names,
    help="The pool, as the server names it; several with --launch.",
)
@click.option("--engine-url", metavar="URL", help="Use this running vLLM server instead of starting one.")
@click.option("--launch", is_flag=True, help="Start and end workers of the pools as the plan wants them, and watch them.")
@click.option("--let-go", is_flag=True, help="End all workers that --launch had started here, without loss.")
@click.option("--api-key", help="Key of the server [default: from the configuration].")
@config_option
def worker(
    *,
    server: str | None,
    pools: Sequence[str],
    engine_url: str | None,
    launch: bool,
    let_go: bool,
    api_key: str | None,
    config: Path | None,
) -> int:
    """Run a worker beside a GPU until it is told to stop (Ctrl-C or SIGTERM).

    It takes its pool's settings from the server, starts the engine when there is work, and when stopped gives back what it holds.

    With --launch it starts such workers instead, as [launch.POOL] of the configuration says, when the plan opens the pool, lets
    them go when it closes, and starts again those that died. They go on when it is stopped; the next one finds them.
    """
    need("worker")
    if len(pools) > 1 and not (launch or let_go):
        raise click.UsageError("A worker belongs to one pool; with --launch several may be named.")

    def read() -> Loaded:
        return load(config, worker__server_url=server, worker__engine_url=engine_url, server__api_key=api_key)

    import asyncio

    from batchsched.logs import configure

    configure(read().settings.logs, "%(asctime)s %(levelname)s %(message)s")
    return asyncio.run(_launched(pools, read, let_go) if launch or let_go else _worked(pools[0], read))


def _launched(pools: Sequence[str], read: Callable[[], Loaded], let_go: bool) -> Coroutine[Any, Any, int]:
    from batchsched.cli.launching import launch_workers

    return launch_workers(pools, read, let_go=let_go)


async def _worked(pool: str, read: Callable[[], Loaded]) -> int:
    import os

    from batchsched import operations, traces
    from batchsched.executors.launchers.port import NAME_ENV
    from batchsched.executors.worker import run_worker

    settings = read().settings
    url, key = settings.worker.server_url, settings.server.api_key
    about = {"batchsched.pool": pool}
    tracer = traces.opened(settings.traces, os.environ, "batchsched-worker", about)
    asked = operations.opened(settings.metrics, os.environ, "batchsched-worker", about)
    replica = os.environ.get(NAME_ENV, "")
    try:
        return await run_worker(settings.worker, pool, url, key, replica=replica, tracer=tracer, operations=asked)
    finally:
        asked.close()
        tracer.close()
