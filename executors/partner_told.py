"""What a partner tells of itself, and how a worker is told apart there."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from batchsched.errors import EngineFailed
from batchsched.fleet import Mode
from batchsched.wire import EnergyMark, EnergySource

PATH = "/partner"
BYTES_PATH = "/partner/bytes"
ANEW_PATH = "/partner/anew"
MOST_BYTES = 64 * 2**20
"""Of one answer that measures the link."""
PORT = 8425
HELD_S = 15.0
"""A worker that has not asked for so long has let go of its partner."""


class PartnerTold(msgspec.Struct):
    """Answer to GET /partner?by=WORKER. Joules are since the partner's start, neither figure ever falling."""

    partner: str
    """Names this run of it: figures of another run begin anew."""
    mode: Mode
    """What its engine is for."""
    served: str
    """By which name its engine serves the model."""
    engine_url: str = ""
    """Empty while it is not ready."""
    problem: str = ""
    """Why it is not."""
    energy_j: float = 0.0
    energy_source: EnergySource = "unmeasured"
    host_j: float = 0.0
    host_source: EnergySource = "unmeasured"
    mark: EnergyMark = ""
    told_energy_j: float = 0.0
    """Of the joules those that a worker was told of before this one came; the rest is for this one to charge."""
    told_host_j: float = 0.0
    pool: str = ""
    """Whose replica it is; empty where it is too old to say."""
    up_s: float = 0.0
    """Since its start: for so long the replica served nothing else."""
    told_up_s: float = 0.0
    """Of these seconds those that a worker was told of before this one came."""
    held_tokens: float | None = None
    """In its engine's KV cache, for whomever; None where that does not say."""
    kv_tokens: int | None = None
    """That this can hold."""
    bytes_per_token: float | None = None
    """Of keys and values, by the model's shape; None where that is not known."""
    drafts_bytes: float = 0.0
    """That went between the target and its draft service, both ways, since the partner's start."""
    drafts_tokens: float = 0.0
    """That were drafted in them."""


def drafts_at(partner_url: str) -> str:
    """Where a partner in the mode of drafts drafts: the port after its own. Raises EngineFailed where there is no partner."""
    found = urlsplit(partner_url)
    if not found.hostname:
        raise EngineFailed("Nobody drafts for this engine.", hint="Start `batchsched partner`, and set worker.partner_url.")
    return f"{found.hostname}:{(found.port or PORT) + 1}"
