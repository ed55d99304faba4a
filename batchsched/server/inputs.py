"""Files of recurring jobs: how a schedule names them, and which are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

from batchsched.errors import InvalidValue

BLOCK_BYTES = 1 << 18
WILD = frozenset("*?[")


def filled(pattern: str, due_at: datetime, timezone: str) -> str:
    """A file's name with the day and the time of its schedule's clock in it."""
    local = due_at.astimezone(ZoneInfo(timezone))
    return pattern.replace("{date}", f"{local:%Y-%m-%d}").replace("{time}", f"{local:%H%M}")


def check_pattern(pattern: str) -> None:
    """Raises InvalidValue for one that leaves the folder, or holds what is not filled in."""
    path, rest = PurePosixPath(pattern), filled(pattern, datetime(2024, 1, 1, tzinfo=UTC), "UTC")
    if not pattern.strip() or path.is_absolute() or ".." in path.parts or "\0" in pattern or "\\" in pattern:
        raise InvalidValue("A file is named by its path below the server's folder of inputs, without '..'.", param="file")
    if any("**" in part and part != "**" for part in path.parts):
        raise InvalidValue("'**' stands for folders, by itself between two slashes, such as a/**/*.jsonl.", param="file")
    if "{" in rest or "}" in rest:
        raise InvalidValue("Only {date} and {time} are filled in.", param="file")


def found_below(root: Path, pattern: str, due_at: datetime, timezone: str) -> tuple[list[Path], bool]:
    """The files that are meant, in order, and whether only those of them that are new: of a folder, or by wildcards. A link that
    leads out of the folder is not followed."""
    name = filled(pattern, due_at, timezone)
    watched = bool(WILD & set(name)) or (root / name).is_dir()
    found = root.glob(name) if WILD & set(name) else (root / name).glob("*.jsonl") if watched else [root / name]
    inside = [path for path in found if path.is_file() and path.resolve().is_relative_to(root)]
    return sorted(inside), watched


def blocks_of(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """A file in blocks."""
    while block := read(BLOCK_BYTES):
        yield block
