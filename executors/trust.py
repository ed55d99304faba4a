"""Until when a worker's leases are known to hold."""

from __future__ import annotations

import asyncio
import math
import time


class Trust:
    """Nothing is sent once it is over: a worker that slept would run again what somebody else has done meanwhile."""

    def __init__(self) -> None:
        self._until = math.inf
        self._renewed = asyncio.Event()

    def renew(self, until: float) -> None:
        """The leases are known to hold until then (monotonic seconds)."""
        self._until = until
        self._renewed.set()
        self._renewed = asyncio.Event()

    def holds(self) -> bool:
        """Do they now?"""
        return time.monotonic() < self._until

    async def wait(self) -> None:
        """Until they do."""
        while not self.holds():
            await self._renewed.wait()
