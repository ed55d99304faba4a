"""What a worker's engine turned out not to have: whole models, and chunks that one way of serving does not suit."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import aiohttp

from batchsched.executors.probes import served_by
from batchsched.hosts import base_url
from batchsched.settings import Worker as WorkerSettings
from batchsched.wire import Lease

log = logging.getLogger(__name__)
LOOK_EVERY_S = 10.0


class Lacks:
    """Of one worker. A way that one chunk does not suit stays for the others."""

    def __init__(self, settings: WorkerSettings, session: aiohttp.ClientSession) -> None:
        self.models: set[str] = set()
        """Not to be asked of this worker."""
        self.waits = bool(settings.engine_url) and not settings.engine_tries
        """Is an engine waited for that somebody else runs, until it has what is asked of it?"""
        self._plain: set[str] = set()
        self._url, self._session = base_url(settings.engine_url), session
        self._absent: set[str] = set()
        self._looked_at = float("-inf")

    def model(self, name: str, why: str) -> None:
        """The engine cannot have it."""
        if name not in self.models:
            log.error("%s", why)
        self.models.add(name)

    def field(self, lease: Lease, field: str) -> None:
        """The chunk is for the plain way of serving. A server that gives it to us again does not know of such chunks: from it
        we take nothing of the model any more."""
        log.warning(
            "Chunk %s has requests with %s, which %s cannot serve.", lease.chunk_id, field, lease.model, extra=lease.about
        )
        if lease.chunk_id in self._plain:
            self.models.add(lease.model)
        self._plain.add(lease.chunk_id)

    async def look(self, declared: Iterable[str]) -> None:
        """See now and then which of these names somebody else's engine answers to; one that does not say is left as it was."""
        if not self.waits or time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at, found = time.monotonic(), (await served_by(self._session, self._url)).contexts
        if not found:
            return
        absent = set(declared) - found.keys()
        if new := sorted(absent - self._absent):
            log.warning("The engine at %s does not serve %s; it serves %s.", self._url, ", ".join(new), ", ".join(found))
        self.models = (self.models - self._absent) | absent
        self._absent = absent
