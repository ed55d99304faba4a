"""Batch files on disk: checked line by line, never read whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchsched.errors import InvalidInputFile
from batchsched.lines import LineError, Request, iter_lines, parse
from batchsched.lines.rules import DEFAULT_LINE_BYTES, Rules

BLOCK_BYTES = 1 << 20


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
    for line in iter_lines(blocks(path), DEFAULT_LINE_BYTES):
        request = parse(line.data, line.number)
        if isinstance(request, Request):
            return request.url
        raise InvalidInputFile(f"{path}, line {line.number}: {request.message}", hint=f"`batchsched validate {path}` shows more.")
    raise InvalidInputFile(f"{path} has no requests.")


def check(
    path: Path,
    rules: Rules,
    endpoint: str | None = None,
    models: Iterable[str] | None = None,
    contexts: Mapping[str, int | None] | None = None,
) -> Checked:
    """Check every line as a server under `rules` would. Where no endpoint is given, the first line's url is the batch's.

    `contexts`: tokens that prompt and answer together have, by model, as far as they are declared.
    """
    from batchsched.lines.checking import Checker

    checker = Checker(rules, endpoint, None if models is None else dict.fromkeys(models), contexts=contexts)
    checker.run(blocks(path))
    checker.finish(lambda: blocks(path))
    return Checked(checker.endpoint, checker.model, checker.lines, *fingerprint(path), checker.errors, checker.error_count)


def blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def fingerprint(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()
