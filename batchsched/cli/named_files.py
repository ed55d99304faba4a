"""Files that are named on a command line: read, written, or standing for standard input and output as `-`."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from batchsched.client.calls import PlotFormat

STDIO = "-"
"""What stands for standard input or output where a file is named."""
IMAGES = (".svg", ".png")


_STDIN = "batchsched-stdin-"


def from_stdin(path: Path) -> bool:
    """Is it what standard input was put into?"""
    return path.parent.name.startswith(_STDIN)


def _folder(context: click.Context | None, prefix: str) -> Path:
    """One that is gone when the command ends."""
    folder = TemporaryDirectory(prefix=prefix)
    if context is not None:
        context.call_on_close(folder.cleanup)
    return Path(folder.name)


class InFile(click.Path):
    """A file that is there; `-` is standard input, which is put into a file for the time of the command, for it is read twice."""

    def __init__(self, stdin_name: str = "stdin.jsonl", *, folders: bool = False) -> None:
        """`stdin_name`: what standard input is called. `folders`: one may be named instead."""
        self._stdin_name = stdin_name
        super().__init__(exists=True, dir_okay=folders, allow_dash=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) != STDIO:
            return super().convert(value, param, ctx)
        if sys.stdin.isatty():
            self.fail("- is standard input, which is a terminal here: pipe a file into it.", param, ctx)
        path = _folder(ctx, _STDIN) / self._stdin_name
        with path.open("wb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out)
        return path


class NewFile(click.Path):
    """A file to be written, in a folder that is there: told before anything else is done.

    `forms`: what its name may end in. `-` is standard output: it gets the first of them and nothing else, for all that is
    otherwise said there goes to stderr.
    """

    def __init__(self, forms: tuple[str, ...] = IMAGES) -> None:
        super().__init__(dir_okay=False, allow_dash=True, path_type=Path)
        self._forms = forms

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == STDIO:
            return self._standard_output(ctx)
        super().convert(value, param, ctx)
        path = Path(value)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}; make it first, or name another.", param, ctx)
        if path.suffix not in self._forms:
            self.fail(f"needs a name that ends in {' or '.join(self._forms)}; {path.name} does not.", param, ctx)
        return path

    def _standard_output(self, ctx: click.Context | None) -> Path:
        path = _folder(ctx, "batchsched-") / f"stdout{self._forms[0]}"
        if ctx is None:
            return path
        out, aside = sys.stdout.buffer, ExitStack()
        aside.enter_context(redirect_stdout(sys.stderr))

        def give() -> None:
            aside.close()
            if path.exists():
                out.write(path.read_bytes())
                out.flush()

        ctx.call_on_close(give)
        return path


def image_format(path: Path) -> PlotFormat:
    """The form of a picture with this name."""
    return "png" if path.suffix == ".png" else "svg"
