"""One strict parse of a line. What it lets through, every JSON parser reads alike.

Parsers differ on a key that is given twice, on NaN, on lone surrogates, on nesting of any depth: one that checks and one that
serves could see two different requests in the same bytes. Such lines are refused, each with a code of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jiter

MAX_DEPTH = 200
"""The parser's own bound; engines and their languages have theirs, somewhat higher."""

COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz",
}  # fmt: skip
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Flaw(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


strictly: Callable[[bytes], Any] = partial(jiter.from_json, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
"""The value in some bytes, if they are all that is asked of them; else a ValueError."""


def read(line: bytes) -> dict[str, Any]:
    """The JSON object on a line. Raises Flaw."""
    try:
        found = strictly(line)
    except ValueError as problem:
        _explain(line, str(problem))
    if type(found) is not dict:
        raise Flaw("invalid_json_line", "The line is not a JSON object.")
    return found


def _explain(line: bytes, problem: str) -> NoReturn:
    """Raise the Flaw that says best what the parser stumbled over."""
    _not_text(line)
    if "duplicate key" in problem:
        key = re.search(r'duplicate key "(.*)" at line', problem, re.DOTALL)
        raise Flaw("duplicate_key", f"The key '{shown(key[1] if key else '')}' is given twice in one object.")
    if "recursion" in problem:
        raise Flaw("too_deep", f"The line is nested deeper than {MAX_DEPTH} levels.")
    if "number out of range" in problem:
        raise Flaw("invalid_number", "The line has a number with thousands of digits.")
    if "hex escape" in problem and _SURROGATE.search(line):
        raise Flaw("lone_surrogate", "The line has one half of a surrogate pair (\\ud800 to \\udfff), which is no character.")
    if names := _constants(line):
        raise Flaw("invalid_number", f"The line has {names[0]}, which is not JSON; leave the field out or give a number.")
    raise Flaw("invalid_json_line", f"The line is not valid JSON: {problem.replace(' at line 1 column', ' at byte')}.")


def _not_text(line: bytes) -> None:
    """Raise the Flaw of bytes that are no plain UTF-8 text."""
    for magic, name in COMPRESSED.items():
        if line.startswith(magic):
            raise Flaw("compressed_file", f"The file is compressed ({name}); send the JSON lines themselves.")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Flaw("invalid_encoding", "The file is in UTF-16; save it as UTF-8.")
    if line.startswith(b"\xef\xbb\xbf"):
        raise Flaw("byte_order_mark", "The line begins with a byte order mark; save the file as UTF-8 without one.")
    if b"\0" in line:
        raise Flaw("nul_byte", "The line has a NUL byte; the file may be in UTF-16, or damaged.")
    try:
        line.decode()
    except UnicodeDecodeError as problem:
        raise Flaw("invalid_encoding", f"The line is not valid UTF-8 at byte {problem.start + 1}.") from None


def _constants(line: bytes) -> list[str]:
    """NaN and Infinity, where these are all that ails the line."""
    names: list[str] = []
    try:
        json.loads(line, parse_constant=names.append)
    except (ValueError, RecursionError):
        return []
    return names


def shown(text: str) -> str:
    """A piece of somebody's text, fit for a message: short, on one line, without control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[:80])
    return plain if len(text) <= 80 else f"{plain}..."
