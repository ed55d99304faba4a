"""Loops that Python is too slow for, compiled to machine code by numba when they are first called.

What is compiled is kept beside the source, or in the user's cache folder where that cannot be written; where nothing can be
written, each process compiles anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

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
    try:
        return cast("F", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no place to keep it
        return cast("F", numba.njit(**options)(function))
