"""The word to stop, by signal, and work that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn, TypeVar

from batchsched import supervisor

log = logging.getLogger(__name__)
T = TypeVar("T")
ANEW_AFTER_S = 1.0


class Stopped(Exception):
    """The worker was told to stop."""


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; Stopped, and the work cancelled, if the word to stop comes first."""
    task, told = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Stopped
    finally:
        for each in (task, told):
            each.cancel()
        await asyncio.gather(task, told, return_exceptions=True)


async def kept_up(chore: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """A chore without end, begun anew should a bug of ours end it: a worker whose heartbeats stop stands still without a word."""
    while True:
        try:
            await chore()
        except Exception:
            log.exception("%s failed; it goes on in %.0f s.", getattr(chore, "__qualname__", chore), ANEW_AFTER_S)
        await asyncio.sleep(ANEW_AFTER_S)


@contextlib.contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Generator[None]:
    """The first signal asks for a clean stop; the second ends the process, and the tether ends the engine."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("Stopping; a second signal stops at once.")
        supervisor.stopping()
        stop.set()

    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.remove_signal_handler(number)
