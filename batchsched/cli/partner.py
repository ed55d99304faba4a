"""`batchsched partner`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli.common import config_option, load, need

if TYPE_CHECKING:
    from batchsched.settings import Settings


@click.command()
@click.option("--pool", required=True, help="The pool that this machine is of: the variant's partner_pool.")
@click.option("--for", "variant", metavar="VARIANT", required=True, help="The model whose mode of serving takes two pools.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of this machine at which the workers reach it.")
@click.option("--port", default=8425, show_default=True, type=click.IntRange(0, 65535), help="Where it tells them of itself.")
@config_option
def partner(*, pool: str, variant: str, host: str, port: int, config: Path | None) -> int:
    """Run the second pool's engine of a mode of serving that takes two, until it is told to stop (Ctrl-C or SIGTERM).

    It starts the engine in its part (for prefill_decode it reads the prompts; for draft_target, which is experimental, it
    drafts), keeps it up, meters it, and tells one worker of the first pool about it, whose worker.partner_url names it. Other
    hosts than this one reach it by --host, and with a key: worker.partner_api_key on both sides.
    """
    need("worker")
    import asyncio

    from batchsched.clock import RandomIds
    from batchsched.executors.partner import run_partner
    from batchsched.logs import configure

    settings = load(config).settings
    configure(settings.logs, "%(asctime)s %(levelname)s %(message)s")
    _check(settings, pool, variant, host)
    model = settings.models[variant]
    return asyncio.run(run_partner(settings.worker, settings.pools[pool], variant, model, host=host, port=port, ids=RandomIds()))


def _check(settings: Settings, pool: str, variant: str, host: str) -> None:
    """Raises InvalidConfiguration where the configuration here has no such partner."""
    from batchsched.errors import InvalidConfiguration
    from batchsched.hosts import is_loopback

    model = settings.models.get(variant)
    if model is None or not model.partner_pool:
        known = ", ".join(name for name, each in settings.models.items() if each.partner_pool) or "none"
        raise InvalidConfiguration(
            f"'{variant}' is no model in a mode of two pools.", hint=f"Declared here with a partner_pool: {known}."
        )
    if pool != model.partner_pool:
        raise InvalidConfiguration(f"The partner pool of '{variant}' is '{model.partner_pool}', not '{pool}'.")
    if not is_loopback(host) and not settings.worker.partner_api_key:
        raise InvalidConfiguration(
            "A partner that other hosts reach needs a key.",
            hint="Set worker.partner_api_key to the same here and on the workers.",
        )
