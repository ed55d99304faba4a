"""A provider around another one, which answers all that it does not answer itself."""

from __future__ import annotations

from datetime import datetime

from batchsched.forecasts.port import Provider, Realised, Signal


class Wrapped:
    """The inner provider's name, zones, signals and measurements."""

    def __init__(self, inner: Provider) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """The inner provider's name."""
        return self._inner.name

    def zones(self) -> list[str]:
        """The inner provider's zones."""
        return self._inner.zones()

    def signal_of(self, zone: str) -> Signal:
        """The inner provider's signal."""
        return self._inner.signal_of(zone)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """The inner provider's measurements."""
        return self._inner.realised(zone, start, end, now)
