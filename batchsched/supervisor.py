"""What a process says to the supervisor that started it (systemd's Type=notify): that it is ready, that it lives, that it ends.

The protocol is sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without one, as on a terminal, nothing is said.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress


def tell(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Say one thing, such as READY=1. What cannot be said is let be: a supervisor's trouble is not ours."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # in Linux's abstract namespace
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto(state.encode(), address)


def ready(env: Mapping[str, str] = os.environ) -> None:
    """What was started does its work now."""
    tell("READY=1", env)


def stopping(env: Mapping[str, str] = os.environ) -> None:
    """It was told to end and does."""
    tell("STOPPING=1", env)


def beat_s(env: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two signs of life: half of what the supervisor bears; None where it wants none."""
    meant = env.get("WATCHDOG_PID", "")
    microseconds = env.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0 or meant not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 2e6


async def beats(env: Mapping[str, str] = os.environ) -> None:
    """Signs of life for as long as this event loop turns. Ends at once where nobody wants any."""
    every_s = beat_s(env)
    while every_s is not None:
        tell("WATCHDOG=1", env)
        await asyncio.sleep(every_s)


@contextmanager
def watched() -> Generator[None]:
    """Signs of life while the block runs, in the event loop that runs now."""
    signs = asyncio.get_running_loop().create_task(beats())
    try:
        yield
    finally:
        signs.cancel()
