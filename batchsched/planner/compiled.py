"""Loops that Python is too slow for, compiled to machine code by numba when they are first called.

What is compiled is kept in the user's cache folder, one folder for each state of the sources: numba itself looks at the file of a
function alone, and would go on using what a changed one, compiled into it, used to be. Where nothing can be written, each
process compiles anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

SETTINGS: Any = vars(numba)["config"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The same function on numbers and numpy arrays, compiled. It must stay within numba's subset of Python."""
    return _compile(function, {})


def lean(function: F) -> F:
    """The same without counting who refers to an array: calls with many arrays are then cheap, but none may be made within."""
    return _compile(function, {"_nrt": False})


def inlined(function: F) -> F:
    """A lean one that becomes part of each caller: for small ones that are called very often."""
    return _compile(function, {"_nrt": False, "forceinline": True})


def _compile(function: F, options: dict[str, Any]) -> F:
    before = SETTINGS.CACHE_DIR
    SETTINGS.CACHE_DIR = before or _folder()
    try:
        return cast("F", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no place to keep it
        return cast("F", numba.njit(**options)(function))
    finally:
        SETTINGS.CACHE_DIR = before


@cache
def _folder() -> str:
    """Where the code of these sources is kept; empty where there is no home to keep it in, then numba looks for a place."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_bytes()
        if b"planner.compiled import" in text or file.name == Path(__file__).name:
            digest.update(text)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return ""
    return str(home / "batchsched" / "compiled" / digest.hexdigest()[:16])
