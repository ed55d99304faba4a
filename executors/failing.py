"""Tries to have an engine that failed, in a row: what a worker tells of them, and how long it leaves the engine alone."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

from batchsched.errors import BatchschedError, EngineFailed
from batchsched.executors.pauses import pause_after
from batchsched.settings import Worker as WorkerSettings
from batchsched.wire import Failing

log = logging.getLogger(__name__)
LONGEST = 800
"""Letters of a reason that the server is told."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
_LEAST_SECRET = 6
"""Shorter values are no secrets, and words of sentences."""
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


class Failures:
    """Of one worker's engine, since it was last ready."""

    def __init__(self, settings: WorkerSettings, environment: Mapping[str, str] = os.environ) -> None:
        self._ours, self._tries = not settings.engine_url, settings.engine_tries
        self._secrets = [settings.engine_api_key, settings.partner_api_key]
        self._secrets += [value for name, value in environment.items() if _SECRET_NAME.search(name)]
        self._secrets.sort(key=len, reverse=True)  # or the rest of one that begins with another would stay
        self.told: Failing | None = None
        """What the server is to know; None: it was ready, or never asked for."""

    def over(self) -> None:
        """It is ready."""
        self.told = None

    def met(self, problem: BatchschedError) -> float:
        """Another try failed; seconds to wait before the next. The log is told all, the server what holds for each try."""
        times = 1 + (self.told.times if self.told else 0)
        advice = problem.advice if isinstance(problem, EngineFailed) else problem.hint
        self.told = Failing(times, self._clean(f"{problem.message} {advice or ''}"))
        pause_s = pause_after(times, ours=self._ours)
        log.error("%s%s Next try in %.0f s.", problem.message, f" {problem.hint}" if problem.hint else "", pause_s)
        return pause_s

    @property
    def too_many(self) -> bool:
        """Are the tries used up that the settings allow?"""
        return self.told is not None and 0 < self._tries <= self.told.times

    def _clean(self, said: str) -> str:
        """An engine's last words may hold what only its host should know."""
        for secret in self._secrets:
            if len(secret) >= _LEAST_SECRET:
                said = said.replace(secret, "...")
        return _USER_IN_URL.sub("", said).strip()[:LONGEST]
