"""Names of replicas: which pool, which place on it, which launch (by its spec's digest), and the how manieth."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote


class Name(NamedTuple):
    """What a replica's name says. Places count from 0; no two starts have the same number."""

    pool: str
    place: int
    digest: str
    number: int

    def __str__(self) -> str:
        return f"{quote(self.pool, safe=' ')}.{self.place}.{self.digest}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """None for a name that was not made here."""
        parts = text.rsplit(".", 3)
        if len(parts) != 4 or not (parts[1].isdecimal() and parts[3].isdecimal()):
            return None
        return cls(unquote(parts[0]), int(parts[1]), parts[2], int(parts[3]))
