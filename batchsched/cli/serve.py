"""`batchsched serve`."""

from __future__ import annotations

from pathlib import Path

import click

from batchsched.cli.common import config_option, load_checked, loading, need, say


@click.command()
@click.option("--host", help="Address to listen on; off loopback only with an API key.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Folder of the database and of all files.")
@config_option
def serve(host: str | None, port: int | None, data_dir: str | None, config: Path | None) -> int:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM).

    Prints one line with its URL on stdout once it answers.
    """
    need("server")
    loaded = load_checked(config, server__host=host, server__port=port, server__data_dir=data_dir)
    for missing in (section for section in ("models", "pools") if not getattr(loaded.settings, section)):
        say(
            f"Warning: no {missing} are declared in {loaded.path or 'the configuration, for there is no file'}; no batch can run."
        )
    with loading():
        from batchsched.server.process import serve as run_server

    code: int = run_server(loaded, click.echo)
    return code
