"""The input of a leased chunk: its bytes from the server, read line by line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from batchsched.executors.link import ServerLink
from batchsched.lines import LineError, Request, parse
from batchsched.wire import Lease

log = logging.getLogger(__name__)


async def input_of(link: ServerLink, lease: Lease) -> Iterator[tuple[int, Request | LineError]]:
    """Its lines by their numbers. What has been taken of them is not kept here."""
    return _read(await link.insist_raw("GET", f"/chunks/{lease.chunk_id}/input?token={lease.token}"), lease)


def _read(data: bytes, lease: Lease) -> Iterator[tuple[int, Request | LineError]]:
    number, pieces = lease.first_line, data.split(b"\n")
    del data  # it may be large, and the pieces are a copy
    for piece in pieces:
        if piece and not piece.isspace():
            yield number, parse(piece, number)
            number += 1
    if number - lease.first_line != lease.lines:
        log.error("Chunk %s has %d lines; its lease says %d.", lease.chunk_id, number - lease.first_line, lease.lines)
