"""The word to stop, by signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Generator

log = logging.getLogger(__name__)


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
        stop.set()

    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.remove_signal_handler(number)
