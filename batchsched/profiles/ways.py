"""Does another way to serve a model pay on a pool? By what was measured of both there, and of nothing else."""

from __future__ import annotations

from typing import NamedTuple

from batchsched.fleet import Mode
from batchsched.profiles.profile import Profile

LEAST_GAIN = 0.05
"""By what share it must be better in something: measurements are no surer than that."""


class Judged(NamedTuple):
    """Whether a way may be planned, and why, in words that follow its name."""

    pays: bool
    why: str


class Ratios(NamedTuple):
    """What a token takes in one way over what it takes in another, read and written: seconds of a replica, joules."""

    read_s: float
    written_s: float
    read_j: float
    written_j: float


def ratios(way: Profile, base: Profile) -> Ratios:
    """Of one replica each, at full load; in a mode of two pools the joules are of both."""
    return Ratios(
        base.input_tokens_per_s / way.input_tokens_per_s,
        base.output_tokens_per_s / way.output_tokens_per_s,
        way.energy_j(1, 0) / base.energy_j(1, 0),
        way.energy_j(0, 1) / base.energy_j(0, 1),
    )


def judge(way: Profile, base: Profile, mode: Mode) -> Judged:
    """It pays where for tokens read or written it takes less time or less energy; which of the two a batch is planned in, the
    plan then chooses by its own mix, deadline and carbon (Algorithm 1). Not before both were measured on the pool."""
    for one in (way, base):
        if one.source != "measured":
            return Judged(False, f"is not planned: nothing of {one.model} was measured there yet.")
    if too_much := beyond_link(way, mode):
        return Judged(False, f"is not planned: {too_much}")
    found = ratios(way, base)
    took = (
        f"x{found.read_s:.2f} of the time and x{found.read_j:.2f} of the energy of {base.model} for a token read, "
        f"x{found.written_s:.2f} and x{found.written_j:.2f} for one written{_drafts(way)}."
    )
    pays = min(found) <= 1.0 - LEAST_GAIN
    return Judged(pays, f"may be planned: it takes {took}" if pays else f"is off, for it does not pay: it takes {took}")


def link_bytes_per_s(way: Profile, mode: Mode) -> float:
    """What one replica sends between the two pools of its mode at its full rate: for each token read, or drafted for those that
    are written; 0 where nothing was measured."""
    if way.sent is None:
        return 0.0
    if mode == "prefill_decode":
        return way.sent.bytes_per_token * way.input_tokens_per_s
    drafted = way.drafted.tokens / (way.drafted.drafts + way.drafted.accepted) if way.drafted else 1.0
    return way.sent.bytes_per_token * way.output_tokens_per_s * drafted


def beyond_link(way: Profile, mode: Mode) -> str:
    """Why one replica does not fit the link between its pools, with the figures; empty where it does, or nothing was measured."""
    rate = link_bytes_per_s(way, mode)
    if way.sent is None or way.sent.link_bytes_per_s is None or rate <= way.sent.link_bytes_per_s:
        return ""
    return (
        f"it sends {way.sent.bytes_per_token:,.0f} bytes a token, {rate / 1e6:,.1f} MB/s at its full rate, and the link between "
        f"its pools takes {way.sent.link_bytes_per_s / 1e6:,.1f} MB/s."
    )


def _drafts(way: Profile) -> str:
    if way.drafted is None:
        return ""
    return f"; of its drafted tokens {way.drafted.acceptance:.0%} stay, {way.drafted.length:.2f} tokens a step"
