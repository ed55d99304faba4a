"""What stands outside of a server and can be put in its place: by a simulation, whose world is not the real one."""

from __future__ import annotations

from typing import NamedTuple

from batchsched.forecasts import Provider
from batchsched.queue.store import Store
from batchsched.solving import PlanMaker


class Outside(NamedTuple):
    """None: the real one, as the settings have it."""

    store: Store | None = None
    """Where bytes lie."""
    provider: Provider | None = None
    """Who forecasts the grid, and measures it."""
    maker: PlanMaker | None = None
    """Who makes plans."""
    lasting: bool = True
    """Is the state to outlive a loss of power?"""
    books: bool = True
    """Are the books of ended batches kept?"""


REAL = Outside()
