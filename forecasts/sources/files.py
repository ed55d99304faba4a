"""A file as a source: read again when it changes, and put into the same record as what the others answer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from batchsched.errors import ForecastUnavailable
from batchsched.feeds import FeedSource
from batchsched.forecasts.file import FileProvider
from batchsched.forecasts.port import IntensityForecast, Realised, Signal
from batchsched.forecasts.sources.port import Measured, chosen


class FileSource:
    """The file of kind `file`. Raises InvalidConfiguration for a bad one, and where its signal is not the declared one."""

    has_forecast = True
    has_history = True

    def __init__(self, name: str, declared: FeedSource, base_dir: Path) -> None:
        self.name = name
        self._file = FileProvider(base_dir / declared.path, chosen(name, declared), strict=True)
        self._zones = declared.zones

    def zones(self) -> list[str]:
        """Those that are declared, else all of the file."""
        return sorted(self._zones or self._file.zones())

    def signal_of(self, zone: str) -> Signal:
        """The file's. Raises ForecastUnavailable for an unknown zone."""
        return self._file.signal_of(self._theirs(zone))

    def _theirs(self, zone: str) -> str:
        if self._zones and zone not in self._zones:
            raise ForecastUnavailable(f"The source '{self.name}' has no zone '{zone}' (it has: {', '.join(self.zones())}).")
        return self._zones.get(zone, zone)

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        """The newest issue in the file that was out by `now`."""
        found = self._file.newest(self._theirs(zone), now)
        return msgspec.structs.replace(found, zone=zone, provider=self.name)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What came true, as far as the file says."""
        values = self._file.realised(self._theirs(zone), start, end, now)
        return [msgspec.structs.replace(value, zone=zone, provider=self.name) for value in values if value.start >= start]

    def fetch_generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> Measured:
        """The same, and what power was generated from."""
        found = self._file.generation(self._theirs(zone), start, end, now)
        generation = [msgspec.structs.replace(one, zone=zone, provider=self.name) for one in found]
        return Measured(self.fetch_realised(zone, start, end, now), generation)
