"""A lease in a worker's hands; its work once its input is here."""

from __future__ import annotations

import asyncio

from batchsched.executors.told import LeaseTold
from batchsched.executors.work import Work
from batchsched.wire import Lease


class Held:
    """From its taking to its end."""

    def __init__(self, lease: Lease, told: LeaseTold) -> None:
        self.lease, self.told = lease, told
        self.work: Work | None = None
        self.task: asyncio.Task[None] | None = None
