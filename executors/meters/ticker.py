"""A thread that does one small thing again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls `act` every `period_s`, from now until it is closed. `act` must not raise."""

    def __init__(self, name: str, period_s: float, act: Callable[[], object]) -> None:
        self._period_s, self._act = period_s, act
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; when this returns, `act` runs no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._act()
