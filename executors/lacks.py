"""What a worker's engine turned out not to have: whole models, and chunks that one way of serving does not suit."""

from __future__ import annotations

import logging

from batchsched.wire import Lease

log = logging.getLogger(__name__)


class Lacks:
    """Of one worker. A way that one chunk does not suit stays for the others."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        """Not to be asked of this worker."""
        self._plain: set[str] = set()

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
