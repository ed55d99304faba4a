"""The frames between an engine's proposer and the draft service of another machine: four bytes a token, one connection.

The service greets with MAGIC and a nonce; the proposer answers with the nonce signed by the key and the number of tokens that it
wants drafted a sequence; a byte says that the service took it. From then on a frame is its length (4 bytes), then its payload,
all little-endian. A request: the step's number, then a head (4 bytes) and new tokens for each sequence that has any or wants a
draft. An answer: the step's number, then for each sequence that wanted a draft a byte (how many, or a status) and the tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAGIC = b"BSD1"
NONCE_BYTES = 16
HELLO = struct.Struct("<32sH")
LENGTH = struct.Struct("<I")
MOST_PAYLOAD_BYTES = 8 << 20
MOST_TOKENS = 0x3FFF
"""New tokens of one row of a request; a longer prompt takes several rows, or several steps."""
MOST_DRAFTED = 200
WARMING, UNKNOWN = 254, 255
"""Statuses of a row: its prompt is being read; what came before the new tokens is not known here, send all."""
_FROM_THE_START, _WANTED = 0x8000, 0x4000
_STEP = struct.Struct("<I")
_HEAD = struct.Struct("<HH")


class Row(NamedTuple):
    """What is new of one sequence. `tokens`: ids, four bytes each."""

    sequence: int
    tokens: bytes
    from_the_start: bool = False
    """Forget what was known under this number."""
    wanted: bool = False
    """A draft that follows these tokens is wanted."""


def signed(key: str, nonce: bytes) -> bytes:
    """What proves the key without sending it."""
    return hmac.digest(key.encode(), MAGIC + nonce, hashlib.sha256)


def request(step: int, rows: Iterable[Row]) -> bytes:
    """A request, its length in front."""
    parts = [_STEP.pack(step)]
    for row in rows:
        count = len(row.tokens) // 4
        flags = (_FROM_THE_START if row.from_the_start else 0) | (_WANTED if row.wanted else 0)
        parts += (_HEAD.pack(row.sequence, count | flags), row.tokens)
    return _framed(parts)


def read_request(payload: bytes) -> tuple[int, list[Row]]:
    """The step and its rows. Raises ValueError for what is no request."""
    try:
        (step,), at, rows = _STEP.unpack_from(payload), _STEP.size, []
        while at < len(payload):
            sequence, word = _HEAD.unpack_from(payload, at)
            at += _HEAD.size
            end = at + 4 * (word & MOST_TOKENS)
            if end > len(payload):
                raise ValueError("a row is cut short")
            rows.append(Row(sequence, payload[at:end], bool(word & _FROM_THE_START), bool(word & _WANTED)))
            at = end
    except struct.error as problem:
        raise ValueError(str(problem)) from problem
    return step, rows


def answer(step: int, drafts: Iterable[Sequence[int] | int]) -> bytes:
    """An answer, its length in front; a draft is token ids, or a status."""
    parts = [_STEP.pack(step)]
    for draft in drafts:
        if isinstance(draft, int):
            parts.append(bytes((draft,)))
        else:
            parts += (bytes((len(draft),)), packed(draft))
    return _framed(parts)


def read_answer(payload: bytes) -> tuple[int, list[list[int] | int]]:
    """The step and its drafts. Raises ValueError for what is no answer."""
    try:
        (step,), at = _STEP.unpack_from(payload), _STEP.size
    except struct.error as problem:
        raise ValueError(str(problem)) from problem
    drafts: list[list[int] | int] = []
    while at < len(payload):
        count = payload[at]
        at += 1
        if count > MOST_DRAFTED:
            drafts.append(count)
            continue
        end = at + 4 * count
        if end > len(payload):
            raise ValueError("a draft is cut short")
        drafts.append(unpacked(payload[at:end]))
        at = end
    return step, drafts


def packed(tokens: Sequence[int]) -> bytes:
    """Token ids as they travel."""
    return _little(array("I", tokens)).tobytes()


def unpacked(data: bytes) -> list[int]:
    """The same back."""
    return _little(array("I", data)).tolist()


def _little(words: array[int]) -> array[int]:
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _framed(parts: list[bytes]) -> bytes:
    return LENGTH.pack(sum(map(len, parts))) + b"".join(parts)
