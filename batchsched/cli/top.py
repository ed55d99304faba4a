"""`batchsched top`: what runs now, what waits, and what the grid does."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import click

from batchsched.cli.common import Connect, Number, json_option, plain, print_json, print_table, say, server_options
from batchsched.errors import BatchschedError

if TYPE_CHECKING:
    from rich.console import Console

    from batchsched.cli.glance import Glance, Looking


@click.command()
@click.option("--once", is_flag=True, help="Show it once and end; so it is where the output is no terminal.")
@click.option(
    "--every", "every_s", type=Number(min=0.5), default=2.0, show_default=True, help="Look again after so many seconds."
)
@json_option
@server_options
def top(once: bool, every_s: float, as_json: bool, connect: Connect) -> None:
    """Watch pools, windows, batches and the grid; Ctrl-C ends it. With --json: one object, once.

    It needs nothing of the terminal but lines and colours, so it works over ssh, and follows its size.
    """
    from batchsched.cli.glance import Looking

    with connect() as client:
        look = Looking(client, client.server, lambda: datetime.now(UTC))
        found = look()
        if as_json:
            print_json({**plain(found), "batches": [plain(one) for one in found.batches]})
        elif not sys.stdout.isatty():
            _written(found)
        else:
            from rich.console import Console

            console = Console()
            _shown_once(console, found) if once else _live(console, look, found, every_s)


def _written(found: Glance) -> None:
    from batchsched.cli.top_view import headline, sections

    click.echo(headline(found))
    for one in sections(found):
        click.echo(f"\n{one.title}")
        print_table(one.heads, one.rows)
    for hidden in found.hidden:
        say(f"Hidden: {hidden}")


def _shown_once(console: Console, found: Glance) -> None:
    from batchsched.cli.top_view import drawn

    console.print(drawn(found, None))


def _live(console: Console, look: Looking, found: Glance, every_s: float) -> None:
    """On the terminal's other screen, so that it is afterwards as it was before. A server that is away is waited for."""
    from rich.live import Live

    from batchsched.cli.top_view import drawn
    from batchsched.cli.watching import away

    trouble = None
    with _Wakened() as wakened, Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(drawn(found, console.height, trouble), refresh=True)
                if wakened.within(every_s):
                    continue  # the new size first, the server's news after that
                try:
                    found, trouble = look(), None
                except BatchschedError as problem:
                    if not away(problem):
                        raise
                    trouble = f"As it was then. {problem.message}"
        except KeyboardInterrupt:
            pass


class _Wakened:
    """Waits, but no longer once the terminal has another size. (By a pipe: a signal must not set an Event that is waited for.)"""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.signal(signal.SIGWINCH, lambda *_: self._wake())
        return self

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is full of news already
            os.write(self._write, b".")

    def within(self, seconds: float) -> bool:
        """Did the size change before so many seconds were over?"""
        if not select.select([self._read], [], [], seconds)[0]:
            return False
        os.read(self._read, 1024)
        return True

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGWINCH, self._before)
        os.close(self._read)
        os.close(self._write)
