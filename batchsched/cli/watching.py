"""`--watch`: look again and again. On a terminal the picture is drawn anew; elsewhere an object is a line whenever it changes."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import click

from batchsched.cli.common import plain, say
from batchsched.errors import BatchschedError

EVERY_S = 2.0
TO_TOP, TO_LINE_END, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
CUT, WRAP = "\x1b[?7l", "\x1b[?7h"
"""What is too long for a line: cut while the picture is drawn, wrapped as ever after it."""


class Named(Protocol):
    """What is watched."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Named)


def watch(
    look: Callable[[], Sequence[T]],
    draw: Callable[[Sequence[T]], None],
    *,
    as_json: bool,
    until: Callable[[Sequence[T]], bool] | None = None,
    every_s: float = EVERY_S,
) -> None:
    """Look until `until` holds, for ever where there is none: then Ctrl-C is its proper end.

    A server that was there at first is waited for. Raises BatchschedError otherwise, such as ServerUnreachable.
    """
    found = look()
    show: _Lines[T] | _Screen[T] = _Lines() if as_json or not drawable() else _Screen(draw)
    try:
        show(found)
        while until is None or not until(found):
            time.sleep(every_s)
            try:
                found = look()
            except BatchschedError as problem:
                if not away(problem):
                    raise
                show.trouble(problem.message)
            else:
                show(found)
    except KeyboardInterrupt:
        if until is not None:
            raise


def away(problem: BatchschedError) -> bool:
    """May looking again bring an answer?"""
    return problem.http_status in {429, 502, 503, 504}


def drawable() -> bool:
    """Is stdout a terminal on which something can be drawn anew?"""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class _Lines(Generic[T]):
    """One JSON object a line: all of them at first, then those that are new or changed."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._trouble = ""

    def __call__(self, found: Sequence[T]) -> None:
        self._trouble = ""
        for one in found:
            line = json.dumps(plain(one), ensure_ascii=False)
            if self._told.get(one.id) != line:
                click.echo(line)
            self._told[one.id] = line

    def trouble(self, text: str) -> None:
        if text != self._trouble:
            say(text)
        self._trouble = text


class _Picture(io.StringIO):
    """What a command would print on a terminal."""

    def isatty(self) -> bool:
        return True


class _Screen(Generic[T]):
    """Drawn over what was drawn before, in one write, so that nothing flickers; it stays there at the end."""

    def __init__(self, draw: Callable[[Sequence[T]], None]) -> None:
        self._draw = draw
        self._found: Sequence[T] = ()
        click.echo(TO_TOP + TO_END, nl=False)

    def __call__(self, found: Sequence[T]) -> None:
        self._found = found
        self._show("")

    def trouble(self, text: str) -> None:
        self._show(f"As it was then. {text}")

    def _show(self, trouble: str) -> None:
        picture = _Picture()
        with redirect_stdout(picture), redirect_stderr(picture):
            self._draw(self._found)
        head = (
            f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}, again every {EVERY_S:g} s; Ctrl-C ends it. {trouble}".rstrip()
        )
        lines = [head, "", *picture.getvalue().splitlines()]
        room = shutil.get_terminal_size().lines - 1
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} lines more than there is room for"]
        click.echo(TO_TOP + CUT + "".join(f"{line}{TO_LINE_END}\n" for line in lines) + WRAP + TO_END, nl=False)
