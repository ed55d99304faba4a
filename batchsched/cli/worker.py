"""`batchsched worker`."""

from __future__ import annotations

from pathlib import Path

import click

from batchsched.cli.common import config_option, load, need


@click.command()
@click.option("--server", metavar="URL", help="The server [default: from the configuration].")
@click.option("--pool", required=True, help="The pool that this worker belongs to, as the server's configuration names it.")
@click.option("--engine-url", metavar="URL", help="Use this running vLLM server instead of starting one.")
@click.option("--api-key", help="Key of the server [default: from the configuration].")
@config_option
def worker(*, server: str | None, pool: str, engine_url: str | None, api_key: str | None, config: Path | None) -> int:
    """Run a worker beside a GPU until it is told to stop (Ctrl-C or SIGTERM).

    It takes its pool's settings from the server, starts the engine when there is work, and when stopped gives back what it holds.
    """
    need("worker")
    settings = load(config, worker__server_url=server, worker__engine_url=engine_url, server__api_key=api_key).settings
    import asyncio
    import logging
    import os

    from batchsched.executors.launchers.port import NAME_ENV
    from batchsched.executors.worker import run_worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    replica = os.environ.get(NAME_ENV, "")
    return asyncio.run(run_worker(settings.worker, pool, settings.worker.server_url, settings.server.api_key, replica=replica))
