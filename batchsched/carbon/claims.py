"""A published figure beside what we compute for it."""

from __future__ import annotations

import msgspec


class Claim(msgspec.Struct, frozen=True):
    """One statement of a paper, what comes out here, and whether the two agree."""

    about: str
    published: str
    computed: str
    agrees: bool | None
    """Figures agree where the one lies within the other's range. None: neither confirmed nor refuted; the note says why."""
    note: str = ""


def error_pct(computed: float, published: float) -> float:
    """How far off, in per cent of what was published."""
    return 100 * (computed - published) / published
