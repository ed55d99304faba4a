"""Batch files on disk: checked line by line, never read whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batchsched.errors import InvalidInputFile
from batchsched.lines import ENDPOINTS, Checker, LineError, Request, parse


@dataclass(frozen=True, slots=True)
class Checked:
    """What a pass over a file found. `errors` are the first hundred of `error_count`."""

    endpoint: str | None
    model: str | None
    requests: int
    size: int
    sha256: str
    errors: list[LineError]
    error_count: int


def first_endpoint(path: Path) -> str:
    """The url of the first line, which decides a batch's endpoint. Raises InvalidInputFile where it cannot be read."""
    with path.open("rb") as stream:
        for number, line in _numbered(stream):
            request = parse(line, number)
            if isinstance(request, Request):
                return request.url
            raise InvalidInputFile(f"{path}, line {number}: {request.message}", hint=f"`batchsched validate {path}` shows more.")
    raise InvalidInputFile(f"{path} has no requests.")


def check(path: Path, endpoint: str | None = None, models: Iterable[str] | None = None) -> Checked:
    """Check every line. Where no endpoint is given, the first url that batchsched serves is the batch's."""
    checker = Checker(endpoint, models)
    with path.open("rb") as stream:
        for number, line in _numbered(stream):
            if checker.endpoint is None:
                checker.endpoint = _endpoint(line, number)
            checker.feed(line, number)
    checker.finish()
    errors, error_count = checker.errors, checker.error_count
    if checker.endpoint is None and not errors:
        text = f"No line's url is one of {', '.join(ENDPOINTS)}."
        errors, error_count = [LineError("invalid_url", text, None, "url")], 1
    return Checked(checker.endpoint, checker.model, checker.lines, *fingerprint(path), errors, error_count)


def fingerprint(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Line numbers as an editor shows them, with the lines that are not blank."""
    return ((number, line.rstrip(b"\n")) for number, line in enumerate(stream, 1) if line.strip())


def _endpoint(line: bytes, number: int) -> str | None:
    request = parse(line, number)
    return request.url if isinstance(request, Request) and request.url in ENDPOINTS else None
