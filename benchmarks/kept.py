"""What runs of a benchmark came to, kept in a file as they come, so that a benchmark which was stopped goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from batchsched.errors import InvalidValue

CODE = (Path("batchsched"), Path("benchmarks"))
"""What figures depend on."""


class Came(Protocol):
    """What a run came to."""

    @property
    def run(self) -> Any:
        """Which: of no other row."""
        ...

    @property
    def took_s(self) -> float:
        """By the clock."""
        ...


R = TypeVar("R", bound=Came)


class Kept(Generic[R]):
    """Rows of a kind, a line each. The first line says of which code."""

    def __init__(self, path: Path, kind: type[R], folders: Iterable[Path] = CODE) -> None:
        """Raises InvalidValue where the file's rows are of other code than that in these folders."""
        self._path, mine = path, digest(folders)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(mine + "\n")
        elif not path.read_bytes().endswith(b"\n"):  # it was stopped in the middle of a line
            with path.open("ab") as file:
                file.write(b"\n")
        first, *lines = path.read_text().splitlines()
        if first != mine:
            raise InvalidValue(f"The rows in {path} were made by other code: move the file away.", param="rows")
        self.rows = {row.run: row for row in (msgspec.json.decode(line, type=kind) for line in lines if line.endswith("}"))}

    def add(self, row: R) -> None:
        """One more."""
        self.rows[row.run] = row
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def digest(folders: Iterable[Path]) -> str:
    """Of all Python files in these folders, links followed."""
    found = hashlib.sha256()
    for folder in folders:
        for where, inner, names in os.walk(folder, followlinks=True):
            inner.sort()
            for name in sorted(names):
                if name.endswith(".py"):
                    found.update(f"{Path(where).relative_to(folder) / name}\n".encode() + (Path(where) / name).read_bytes())
    return found.hexdigest()
