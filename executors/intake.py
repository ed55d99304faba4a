"""The input of a leased chunk: its bytes from the server, read line by line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from batchsched.executors.link import ServerLink
from batchsched.executors.modes import refused
from batchsched.fleet import ServedModel
from batchsched.lines import LineError, Request, parse
from batchsched.wire import Lease

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """Lines by their numbers; what has been taken of them is not kept here. `refused`: a field of theirs that the engine would
    refuse in its mode of serving and take in the plain one; empty where there is none."""

    lines: Iterator[tuple[int, Request | LineError]]
    refused: str = ""


async def input_of(link: ServerLink, lease: Lease, served: ServedModel) -> Input:
    """Of a lease. `served`: what it is served with."""
    data = await link.insist_raw("GET", f"/chunks/{lease.chunk_id}/input?token={lease.token}")
    return Input(_read(data, lease), refused(served, [data]) if lease.rename else "")


def _read(data: bytes, lease: Lease) -> Iterator[tuple[int, Request | LineError]]:
    number, pieces = lease.first_line, data.split(b"\n")
    del data  # it may be large, and the pieces are a copy
    for piece in pieces:
        if piece and not piece.isspace():
            yield number, parse(piece, number)
            number += 1
    if number - lease.first_line != lease.lines:
        log.error("Chunk %s has %d lines; its lease says %d.", lease.chunk_id, number - lease.first_line, lease.lines)
