"""What an operator decides about input files."""

from __future__ import annotations

import msgspec

DEFAULT_LINE_BYTES = 4_194_304


class Rules(msgspec.Struct, frozen=True):
    """What lines are held against, and how chunks are cut: the settings of the same names, under `server`."""

    max_line_bytes: int = DEFAULT_LINE_BYTES
    max_lines: int = 1_000_000
    allow_fields: list[str] = []
    media_domains: list[str] = []
    chunk_lines: int = 200
    chunk_bytes: int = 4_000_000
