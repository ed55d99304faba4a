"""Alarms: one that rings while they end trips over nothing."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.base import BaseExecutor

from batchsched.alarms import Alarms
from tests.live import PATIENCE_S


class AtTheWorstMoment(BaseExecutor):  # type: ignore[misc]  # APScheduler says no types
    """Holds APScheduler's thread between an alarm's ring and its removal until somebody ends the alarms."""

    def __init__(self) -> None:
        super().__init__()
        self.rings = threading.Event()

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self.rings.set()
        while self._scheduler.running:
            time.sleep(0.001)


def test_an_alarm_that_rings_while_all_end(monkeypatch: Any) -> None:
    trouble: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", trouble.append)
    executor = AtTheWorstMoment()
    alarms = Alarms({"default": executor})
    alarms.add_job(print, "date", run_date=datetime.now(UTC), id="one")
    assert executor.rings.wait(PATIENCE_S)
    alarms.shutdown()
    assert trouble == []


def test_one_that_is_not_there_is_taken_away() -> None:
    alarms = Alarms()
    alarms.remove_job("none")
    alarms.shutdown()
