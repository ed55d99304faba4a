"""The benchmark of metering: that it sees what a meter takes."""

from __future__ import annotations

import threading
import time

from batchsched.executors.meters import Reading
from benchmarks.meter import core_pct


class Greedy:
    """A meter whose thread does nothing but compute."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._burn)
        self._thread.start()

    def _burn(self) -> None:
        while not self._stop.is_set():
            sum(range(1000))

    def read(self) -> Reading:
        return Reading(0.0, "unmeasured")

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Frugal(Greedy):
    """One that waits."""

    def _burn(self) -> None:
        self._stop.wait()


def test_what_a_meter_does_beside_its_readings_counts() -> None:
    began = time.process_time()
    greedy, frugal = core_pct(Greedy, 0.5), core_pct(Frugal, 0.5)
    assert greedy > 10 > frugal
    assert time.process_time() > began
